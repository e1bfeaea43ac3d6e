"use strict";
const byId = (id) => document.getElementById(id);
const rows = [...document.querySelectorAll("tbody tr")];
const ticks = { verified: (row) => row.dataset.verified === "verified", honest: (row) => row.dataset.honest !== "failed", code: (row) => row.dataset.code === "yes" };

function filter() {
  const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of rows) {
    const found = words.every((word) => row.dataset.text.includes(word));
    row.hidden = !(found && Object.keys(ticks).every((id) => !byId(id).checked || ticks[id](row)));
  }
  for (const board of document.querySelectorAll(".board")) board.hidden = !board.querySelector("tbody tr:not([hidden])");
  const shown = rows.filter((row) => !row.hidden).length;
  byId("count").textContent = `${shown} of ${rows.length} entries`;
}

function sort(head) {
  const table = head.closest("table");
  const column = [...head.parentNode.children].indexOf(head);
  const key = (row) => row.children[column].dataset.key;
  const isNumber = head.classList.contains("number");
  // The first click shows what is best first: names from A, numbers from the largest.
  const ascending = head.ariaSort ? head.ariaSort === "descending" : !isNumber;
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const order = [...table.tBodies[0].rows].sort((a, b) =>
    isNumber ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b)));
  table.tBodies[0].append(...(ascending ? order : order.reverse()));
}

for (const id of ["find", ...Object.keys(ticks)]) byId(id).addEventListener("input", filter);
for (const head of document.querySelectorAll("thead th")) head.firstElementChild.addEventListener("click", () => sort(head));
filter();
