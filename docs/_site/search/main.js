// Search in the browser, also where the site is opened as files: lunr and the index are loaded as scripts, without a worker.
function load(file) {
  return new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = `${base_url}/search/${file}`;
    script.onload = done;
    script.onerror = failed;
    document.head.append(script);
  });
}

async function startSearch() {
  const results = document.getElementById("mkdocs-search-results");
  const input = document.getElementById("mkdocs-search-query");
  if (!results || !input) return;
  await load("lunr.js");
  await load("search_index.js");
  const pages = new Map(searchIndex.docs.map((page) => [page.location, page]));
  const index = lunr(function () {
    this.ref("location");
    this.field("title", { boost: 10 });
    this.field("text");
    searchIndex.docs.forEach((page) => this.add(page));
  });

  function show() {
    const words = input.value.split(/[^\p{L}\p{N}_]+/u).filter((word) => word.length > 1);
    const found = words.length ? index.query((query) => words.forEach((word) => {
      const term = word.toLowerCase();
      query.term(term, { usePipeline: true, boost: 10 });
      query.term(term, { usePipeline: false, wildcard: lunr.Query.wildcard.TRAILING });
    })) : [];
    results.replaceChildren(...found.slice(0, 50).map(({ ref }) => {
      const page = pages.get(ref);
      const [article, heading, link, text] = ["article", "h3", "a", "p"].map((tag) => document.createElement(tag));
      link.href = `${base_url}/${ref}`;
      link.textContent = page.title;
      text.textContent = page.text.slice(0, 200);
      heading.append(link);
      article.append(heading, text);
      return article;
    }));
    if (!found.length) results.textContent = words.length ? "No page has these words." : "";
  }

  input.value = new URLSearchParams(location.search).get("q") || "";
  input.addEventListener("input", show);
  show();
}

document.addEventListener("DOMContentLoaded", startSearch);
