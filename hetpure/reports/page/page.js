"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const PAGE = 60;
  const OUTCOMES = { survived: "✓ survived", broken: "✗ broken", wrong: "– wrong", right: "✓ right", failed: "! failed" };
  const form = byId("filters"), list = byId("list"), more = byId("more");
  let shown = PAGE, matches = [];

  // Everything that a run names goes in as text, never as markup.
  function make(tag, properties, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  const text = (tag, textContent, className = "") => make(tag, { textContent, className });
  const className = (k) => (k in data.classes ? data.classes[k] : String(k));
  const method = () => data.methods[byId("method").selectedIndex];
  const protocol = () => byId("protocol").value;
  const outcomeOf = (sample, name = protocol()) => (name in sample.protocols ? sample.protocols[name][0] : "failed");
  const bySample = data.methods.map((each) => new Map(each.samples.map((sample) => [sample.index, sample])));

  function setOptions(select, pairs) {
    const before = select.value;
    select.replaceChildren(...pairs.map(([value, textContent]) => make("option", { value, textContent })));
    if (pairs.some(([value]) => value === before)) select.value = before;
  }

  function fillFilters() {
    const { protocols, samples } = method();
    setOptions(byId("protocol"), protocols.map((name) => [name, name]));
    byId("protocol-label").hidden = protocols.length < 2;
    const classes = [...new Set(samples.map((sample) => sample.label))].sort((a, b) => a - b);
    setOptions(byId("class"), [["", "all classes"], ...classes.map((k) => [String(k), className(k)])]);
    const others = data.methods.map((each, k) => [String(k), each.name]).filter(([k]) => data.methods[k] !== method());
    setOptions(byId("other"), [["", "–"], ...others]);
    byId("other-label").hidden = !others.length;
    const steps = byId("steps"), pictured = samples.some((sample) => sample.panels);
    steps.parentElement.hidden = !pictured;
    steps.checked &&= pictured;
  }

  // All filters but the outcome, whose choices show how many samples each would leave.
  function candidates() {
    const label = byId("class").value, other = byId("other").value;
    return method().samples.filter((sample) => {
      if (label !== "" && String(sample.label) !== label) return false;
      if (byId("steps").checked && !sample.panels) return false;
      if (other === "") return true;
      const twin = bySample[other].get(sample.index);
      if (!twin) return false;
      const name = protocol() in twin.protocols ? protocol() : data.methods[other].protocols[0];
      return outcomeOf(twin, name) !== outcomeOf(sample);
    });
  }

  const checkedOutcome = () => form.querySelector("input[name=outcome]:checked");
  const chosenOutcome = () => checkedOutcome()?.value ?? "";

  function fillOutcomes(samples) {
    const chosen = chosenOutcome(), counts = { "": samples.length };
    for (const outcome of samples.map((sample) => outcomeOf(sample))) counts[outcome] = (counts[outcome] || 0) + 1;
    const attacked = method().samples.some((sample) => ["survived", "broken"].includes(outcomeOf(sample)));
    const kinds = ["", ...(attacked ? ["survived", "broken"] : ["right"]), "wrong"];
    if (counts.failed || chosen === "failed") kinds.push("failed");
    const focused = document.activeElement?.name === "outcome", fieldset = byId("outcomes");
    fieldset.querySelectorAll(".choice").forEach((choice) => choice.remove());
    for (const kind of kinds) {
      const input = make("input", { type: "radio", name: "outcome", value: kind, checked: kind === chosen });
      const label = text("span", `${kind ? OUTCOMES[kind] : "all"} ${counts[kind] || 0}`);
      fieldset.append(make("label", { className: "choice" }, input, label));
    }
    if (!checkedOutcome()) form.querySelector("input[name=outcome]").checked = true;
    if (focused) checkedOutcome().focus();
  }

  // How far the two highest scores on the attacked (or clean) image are apart.
  function margin(sample) {
    const scores = sample.attackedScores || sample.cleanScores;
    if (!scores || scores.length < 2) return NaN;
    const [first, second] = scores.map((pair) => pair[1]).sort((a, b) => b - a);
    return first - second;
  }

  const ORDERS = { class: (s) => s.label, close: margin, sure: (s) => -margin(s), slow: (s) => -s.seconds };

  function ordered(samples) {
    const key = ORDERS[byId("order").value];
    if (!key) return samples;
    const value = (sample) => (Number.isNaN(key(sample)) ? Infinity : key(sample));
    return samples.map((s) => [value(s), s]).sort(([a], [b]) => (a === b ? 0 : a - b)).map(([, s]) => s);
  }

  const badge = (outcome) => text("span", OUTCOMES[outcome], `badge ${outcome}`);

  function classNames(predictions) {
    const distinct = [...new Set(predictions)];
    return distinct.slice(0, 4).map(className).join(" / ") + (distinct.length > 4 ? " / .." : "");
  }

  function card(sample) {
    const [outcome, clean, attacked] = sample.protocols[protocol()] || ["failed", [], []];
    const strip = make("span", { className: "strip" });
    const small = [["clean", data.clean[sample.index]], ["adversarial", sample.adversarial]].filter(([, uri]) => uri);
    for (const [name, src] of sample.panels || small) {
      const heading = name === "perturbation" ? `perturbation ×${method().amplification}` : name;
      strip.append(make("span", {}, make("img", { src, alt: `${heading} image of sample ${sample.index}` }), heading));
    }
    const predicted = `clean: ${classNames(clean)}` + (attacked.length ? ` · attacked: ${classNames(attacked)}` : "");
    const name = make("b", {}, `${className(sample.label)} `, text("span", `#${sample.index}`, "number-of"));
    const summary = make("summary", {}, make("span", { className: "head" }, name, badge(outcome)),
      ...(strip.childElementCount ? [strip] : []), text("span", sample.failure || predicted, "detail"));
    const element = make("details", { className: sample.panels ? "sample wide" : "sample" }, summary);
    element.dataset.index = sample.index;
    element.addEventListener("toggle", () => {
      if (element.open && !element.querySelector(".body")) element.append(body(sample));
    });
    return element;
  }

  const titled = (title, ...children) => make("div", {}, text("h4", title), ...children);

  function scores(title, pairs) {
    const cells = pairs.flatMap(([k, score]) => [text("span", className(k)), text("span", String(score))]);
    return titled(title, make("div", { className: "bars" }, ...cells));
  }

  function sparkline(title, values, iterations, low, high) {
    const [svg, path] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
    const y = (value) => 52 - 48 * (high > low ? (value - low) / (high - low) : 0.5);
    const x = (k) => (260 * k) / (values.length - 1);
    path.setAttribute("d", "M" + values.map((value, k) => `${x(k).toFixed(1)} ${y(value).toFixed(1)}`).join("L"));
    path.setAttribute("class", "line s0");
    const words = `from ${values[0]} to ${values[values.length - 1]} in ${iterations} iterations`;
    const attributes = { viewBox: "0 0 260 56", preserveAspectRatio: "none", role: "img", "aria-label": `${title} ${words}` };
    for (const [name, value] of Object.entries(attributes)) svg.setAttribute(name, value);
    svg.append(path);
    return titled(title, svg, text("p", words, "detail"));
  }

  // A sample's outcome under one method, with one line for each protocol.
  function outcomesUnder(each, sample) {
    return each.protocols.map((name) => {
      const predictions = (sample.protocols[name] || [])[2] || [];
      const right = predictions.filter((k) => k === sample.label).length;
      const share = predictions.length > 1 ? `: ${right} of ${predictions.length} right when attacked` : "";
      const label = each.protocols.length > 1 ? `${each.name} · ${name}` : each.name;
      return make("li", {}, badge(outcomeOf(sample, name)), ` ${label}${share}`);
    });
  }

  function body(sample) {
    const { name, score } = method(), box = make("div", { className: "body" });
    if (sample.cleanScores) box.append(scores(`Clean, ${score}`, sample.cleanScores));
    if (sample.attackedScores) box.append(scores(`Attacked, ${score}`, sample.attackedScores));
    if (sample.loss) {
      const ends = [Math.min(...sample.loss), Math.max(...sample.loss)];
      box.append(sparkline("Attacker's loss", sample.loss, sample.iterations, ...ends));
    }
    if (sample.right) box.append(sparkline("Draws still right", sample.right, sample.iterations, 0, 1));
    const twins = data.methods.map((each, k) => [each, bySample[k].get(sample.index)]).filter(([, twin]) => twin);
    const outcomes = twins.flatMap(([each, twin]) => outcomesUnder(each, twin));
    box.append(titled("Under every method", make("ul", { className: "under" }, ...outcomes)));
    const facts = [`number ${sample.index} of the split, class ${className(sample.label)}`];
    if (sample.seconds !== undefined) facts.push(`${sample.seconds} seconds`);
    if (sample.file) facts.push(`adversarial image: ${name}/${sample.file}["${sample.index}"]`);
    if (sample.failure) facts.push(sample.failure);
    box.append(titled("Sample", ...facts.map((fact) => text("p", fact))));
    return box;
  }

  function draw() {
    list.replaceChildren(...matches.slice(0, shown).map(card));
    byId("count").textContent = `${matches.length} of ${method().samples.length} images`;
    more.hidden = matches.length <= shown;
    more.textContent = `Show ${Math.min(PAGE, matches.length - shown)} more`;
  }

  function update() {
    fillFilters();
    const samples = candidates();
    fillOutcomes(samples);
    const outcome = chosenOutcome();
    matches = ordered(outcome ? samples.filter((sample) => outcomeOf(sample) === outcome) : samples);
    shown = PAGE;
    draw();
  }

  // The address says what is shown, so that a view can be linked to.
  function saveView() {
    const state = new URLSearchParams({ method: method().name });
    for (const id of ["protocol", "class", "other", "order"]) {
      const select = byId(id);
      if (select.selectedIndex > 0) state.set(id, id === "other" ? data.methods[select.value].name : select.value);
    }
    if (byId("steps").checked) state.set("steps", "1");
    if (chosenOutcome()) state.set("outcome", chosenOutcome());
    try { history.replaceState(null, "", `#${state}`); } catch { /* some browsers refuse it for files */ }
  }

  function restoreView() {
    if (location.hash.includes("=")) {
      const state = new URLSearchParams(location.hash.slice(1));
      const numberOf = (name) => data.methods.findIndex((each) => each.name === name);
      byId("method").selectedIndex = Math.max(numberOf(state.get("method")), 0);
      fillFilters();
      for (const id of ["protocol", "class", "other", "order"]) {
        const value = state.get(id) || "", select = byId(id);
        select.value = id === "other" && value ? String(numberOf(value)) : value;
        if (select.selectedIndex < 0) select.selectedIndex = 0;
      }
      byId("steps").checked = state.has("steps");
      fillOutcomes(candidates());
      const input = [...form.querySelectorAll("input[name=outcome]")].find((one) => one.value === state.get("outcome"));
      if (input) input.checked = true;
    }
    update();
  }

  if (!data.methods.some((each) => each.samples.length)) {
    byId("count").textContent = "No sample is finished yet.";
    return;
  }
  setOptions(byId("method"), data.methods.map((each) => [each.name, each.name]));
  restoreView();
  form.hidden = byId("meaning").hidden = false;
  form.addEventListener("change", () => { update(); saveView(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", () => { if (location.hash.includes("=")) restoreView(); });
  more.addEventListener("click", () => {
    const first = shown;
    shown += PAGE;
    draw();
    list.children[first]?.querySelector("summary").focus();
  });
})();
