"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const PAGE = 60;
  const WORDS = {
    survived: ["✓", "survived"], broken: ["✗", "broken"], wrong: ["–", "wrong"], right: ["✓", "right"],
    failed: ["!", "failed"],
  };
  const form = at("filters"), list = at("list"), more = at("more");
  let shown = PAGE, found = [];

  // Everything that a run names goes in as text, never as markup.
  function make(tag, properties, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  const className = (k) => (k in data.classes ? data.classes[k] : String(k));
  const method = () => data.methods[at("method").selectedIndex];
  const protocol = () => at("protocol").value;
  const outcomeOf = (sample, name) => (name in sample.protocols ? sample.protocols[name][0] : "failed");
  const bySample = data.methods.map((of) => new Map(of.samples.map((sample) => [sample.index, sample])));

  function options(select, pairs) {
    const before = select.value;
    select.replaceChildren(...pairs.map(([value, text]) => make("option", { value, textContent: text })));
    if (pairs.some(([value]) => value === before)) select.value = before;
  }

  function fillMethod() {
    const of = method();
    options(at("protocol"), of.protocols.map((name) => [name, name]));
    at("protocol-label").hidden = of.protocols.length < 2;
    const classes = [...new Set(of.samples.map((sample) => sample.label))].sort((a, b) => a - b);
    options(at("class"), [["", "all classes"], ...classes.map((k) => [String(k), className(k)])]);
    const others = data.methods.map((other, k) => [String(k), other.name]).filter(([k]) => data.methods[k] !== of);
    options(at("other"), [["", "–"], ...others]);
    at("other-label").hidden = !others.length;
    at("steps").parentElement.hidden = !of.samples.some((sample) => sample.panels);
    if (at("steps").parentElement.hidden) at("steps").checked = false;
  }

  // All filters but the outcome, whose choices show how many each would leave.
  function candidates() {
    const wanted = at("class").value, other = at("other").value;
    return method().samples.filter((sample) => {
      if (wanted !== "" && String(sample.label) !== wanted) return false;
      if (at("steps").checked && !sample.panels) return false;
      if (other === "") return true;
      const there = bySample[other].get(sample.index);
      if (!there) return false;
      const name = protocol() in there.protocols ? protocol() : data.methods[other].protocols[0];
      return outcomeOf(there, name) !== outcomeOf(sample, protocol());
    });
  }

  function chosenOutcome() {
    const chosen = form.querySelector("input[name=outcome]:checked");
    return chosen ? chosen.value : "";
  }

  function fillOutcomes(samples) {
    const chosen = chosenOutcome();
    const counts = { "": samples.length };
    for (const sample of samples) {
      const outcome = outcomeOf(sample, protocol());
      counts[outcome] = (counts[outcome] || 0) + 1;
    }
    const attacked = method().samples.some((s) => ["survived", "broken"].includes(outcomeOf(s, protocol())));
    const kinds = ["", ...(attacked ? ["survived", "broken"] : ["right"]), "wrong"];
    if (counts.failed || chosen === "failed") kinds.push("failed");
    const focused = document.activeElement && document.activeElement.name === "outcome";
    const fieldset = at("outcomes");
    fieldset.querySelectorAll(".choice").forEach((choice) => choice.remove());
    for (const kind of kinds) {
      const input = make("input", { type: "radio", name: "outcome", value: kind, checked: kind === chosen });
      const text = kind ? WORDS[kind].join(" ") : "all";
      fieldset.append(make("label", { className: "choice" }, input,
        make("span", { textContent: `${text} ${counts[kind] || 0}` })));
    }
    if (!form.querySelector("input[name=outcome]:checked")) form.querySelector("input[name=outcome]").checked = true;
    if (focused) form.querySelector("input[name=outcome]:checked").focus();
  }

  // How far the prediction on the attacked (or clean) image is ahead: from the two highest scores.
  function margin(sample) {
    const scores = sample.attackedScores || sample.cleanScores;
    if (!scores || scores.length < 2) return null;
    const sorted = scores.map((pair) => pair[1]).sort((a, b) => b - a);
    return sorted[0] - sorted[1];
  }

  function ordered(samples) {
    const order = at("order").value;
    const by = {
      class: (s) => s.label, close: margin, sure: (s) => (margin(s) === null ? null : -margin(s)),
      slow: (s) => (s.seconds === undefined ? null : -s.seconds),
    }[order];
    if (!by) return samples;
    const key = (s) => (by(s) === null ? Infinity : by(s));
    return samples.map((s, k) => [key(s), k, s]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map((one) => one[2]);
  }

  function badge(outcome) {
    return make("span", { className: `badge ${outcome}`, textContent: WORDS[outcome].join(" ") });
  }

  function picture(uri, heading, sample) {
    return make("span", {}, make("img", { src: uri, alt: `${heading} image of sample ${sample.index}` }), heading);
  }

  function names(predictions) {
    const distinct = [...new Set(predictions)];
    return distinct.slice(0, 4).map(className).join(" / ") + (distinct.length > 4 ? " / .." : "");
  }

  function card(sample) {
    const of = method(), [outcome, clean, attacked] = sample.protocols[protocol()] || ["failed", [], []];
    const strip = make("span", { className: "strip" });
    if (sample.panels) {
      for (const [heading, uri] of sample.panels) {
        strip.append(picture(uri, heading === "perturbation" ? `perturbation ×${of.amplification}` : heading, sample));
      }
    } else {
      if (data.clean[sample.index]) strip.append(picture(data.clean[sample.index], "clean", sample));
      if (sample.adversarial) strip.append(picture(sample.adversarial, "adversarial", sample));
    }
    const said = sample.failure ? sample.failure
      : `clean: ${names(clean)}` + (attacked.length ? ` · attacked: ${names(attacked)}` : "");
    const summary = make("summary", {},
      make("span", { className: "head" },
        make("b", {}, className(sample.label), " ",
          make("span", { className: "number-of", textContent: `#${sample.index}` })), badge(outcome)),
      strip.childElementCount ? strip : null, make("span", { className: "said", textContent: said }));
    const element = make("details", { className: sample.panels ? "sample wide" : "sample" }, summary);
    element.dataset.index = sample.index;
    element.dataset.outcome = outcome;
    element.addEventListener("toggle", () => {
      if (element.open && !element.querySelector(".body")) element.append(body(sample));
    });
    return element;
  }

  function scores(title, pairs) {
    const bars = make("div", { className: "bars" });
    for (const [k, score] of pairs) {
      bars.append(make("span", { textContent: className(k) }), make("span", { textContent: String(score) }));
    }
    return make("div", {}, make("h4", { textContent: title }), bars);
  }

  function sparkline(title, values, iterations, floor, top) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const low = floor === null ? Math.min(...values) : floor, high = top === null ? Math.max(...values) : top;
    const y = (value) => 52 - 48 * (high > low ? (value - low) / (high - low) : 0.5);
    const x = (k) => (260 * k) / (values.length - 1);
    path.setAttribute("d", "M" + values.map((value, k) => `${x(k).toFixed(1)} ${y(value).toFixed(1)}`).join("L"));
    path.setAttribute("class", "line s0");
    svg.setAttribute("viewBox", "0 0 260 56");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    const said = `${title}, ${iterations} iterations: ${values[0]} at first, ${values[values.length - 1]} at last`;
    svg.setAttribute("aria-label", said);
    svg.append(path);
    return make("div", {}, make("h4", { textContent: title }), svg, make("p", { className: "said",
      textContent: `${values[0]} at first, ${values[values.length - 1]} at last; ${iterations} iterations` }));
  }

  function body(sample) {
    const of = method(), box = make("div", { className: "body" });
    if (sample.cleanScores) box.append(scores(`Clean, ${of.score}`, sample.cleanScores));
    if (sample.attackedScores) box.append(scores(`Attacked, ${of.score}`, sample.attackedScores));
    if (sample.loss) box.append(sparkline("Attacker's loss", sample.loss, sample.iterations, null, null));
    if (sample.right) box.append(sparkline("Draws still right", sample.right, sample.iterations, 0, 1));
    const under = make("ul", { className: "under" });
    data.methods.forEach((other, k) => {
      const there = bySample[k].get(sample.index);
      if (!there) return;
      for (const name of other.protocols) {
        const text = [other.name, other.protocols.length > 1 ? ` · ${name}` : "", " "].join("");
        const predictions = (there.protocols[name] || [])[2] || [];
        const right = predictions.filter((k) => k === sample.label).length;
        const share = predictions.length > 1 ? `: ${right} of ${predictions.length} right when attacked` : "";
        under.append(make("li", {}, badge(outcomeOf(there, name)), " ", text.trim(), share));
      }
    });
    box.append(make("div", {}, make("h4", { textContent: "Under every method" }), under));
    const facts = make("div", {}, make("h4", { textContent: "Sample" }),
      make("p", { textContent: `number ${sample.index} of the split, class ${className(sample.label)}` }));
    if (sample.seconds !== undefined) facts.append(make("p", { textContent: `${sample.seconds} seconds` }));
    if (sample.file) facts.append(make("p", { textContent: `adversarial image: ${of.name}/${sample.file}["${sample.index}"]` }));
    if (sample.failure) facts.append(make("p", { textContent: sample.failure }));
    box.append(facts);
    return box;
  }

  function draw() {
    list.replaceChildren(...found.slice(0, shown).map(card));
    const total = method().samples.length;
    at("count").textContent = `${found.length} of ${total} images`;
    more.hidden = found.length <= shown;
    more.textContent = `Show ${Math.min(PAGE, found.length - shown)} more`;
  }

  function update() {
    fillMethod();
    const samples = candidates();
    fillOutcomes(samples);
    const outcome = chosenOutcome();
    found = ordered(outcome ? samples.filter((sample) => outcomeOf(sample, protocol()) === outcome) : samples);
    shown = PAGE;
    draw();
  }

  // The address says what is shown, so that a view can be linked to.
  function remember() {
    const state = new URLSearchParams();
    state.set("method", method().name);
    for (const id of ["protocol", "class", "other", "order"]) {
      const select = at(id);
      if (select.selectedIndex > 0) state.set(id, id === "other" ? data.methods[select.value].name : select.value);
    }
    if (at("steps").checked) state.set("steps", "1");
    if (chosenOutcome()) state.set("outcome", chosenOutcome());
    try { history.replaceState(null, "", `#${state}`); } catch { /* some browsers refuse it to files */ }
  }

  function recall() {
    const state = new URLSearchParams(location.hash.slice(1));
    if (!location.hash.includes("=")) return;
    const numberOf = (name) => data.methods.findIndex((of) => of.name === name);
    at("method").selectedIndex = Math.max(numberOf(state.get("method")), 0);
    fillMethod();
    const values = { protocol: state.get("protocol"), class: state.get("class"), order: state.get("order"),
      other: state.has("other") ? String(numberOf(state.get("other"))) : "" };
    for (const [id, value] of Object.entries(values)) {
      at(id).value = value || "";
      if (at(id).selectedIndex < 0) at(id).selectedIndex = 0;
    }
    at("steps").checked = state.has("steps");
    fillOutcomes(candidates());
    const input = [...form.querySelectorAll("input[name=outcome]")].find((one) => one.value === state.get("outcome"));
    if (input) input.checked = true;
  }

  if (!data.methods.length || !data.methods.some((of) => of.samples.length)) {
    at("count").textContent = "No sample is finished yet.";
    return;
  }
  options(at("method"), data.methods.map((of) => [of.name, of.name]));
  fillMethod();
  fillOutcomes(candidates());
  recall();
  update();
  form.hidden = at("meaning").hidden = false;
  form.addEventListener("change", () => { update(); remember(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", () => { if (location.hash.includes("=")) { recall(); update(); } });
  more.addEventListener("click", () => {
    const first = shown;
    shown += PAGE;
    draw();
    const next = list.children[first];
    if (next) next.querySelector("summary").focus();
  });
})();
