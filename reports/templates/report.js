// Sorts the rows of a table by one column, and shows where a number comes from in a dialog.
"use strict";
for (const table of document.querySelectorAll("table.results")) {
  const heads = [...table.tHead.rows[1].cells];
  const body = table.tBodies[0];
  const original = [...body.rows];
  const next = { none: "descending", descending: "ascending", ascending: "none" };
  const sortBy = (column, order) => {
    const value = (row) => (row.cells[column].dataset.sort === "" ? null : Number(row.cells[column].dataset.sort));
    const rows = original.filter((row) => order === "none" || value(row) !== null);
    const blank = original.filter((row) => !rows.includes(row));
    if (order !== "none") rows.sort((a, b) => (order === "ascending" ? value(a) - value(b) : value(b) - value(a)));
    body.append(...rows, ...blank);
    for (const head of heads) head.removeAttribute("aria-sort");
    if (order !== "none") heads[column].setAttribute("aria-sort", order);
  };
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (button) button.addEventListener("click", () => sortBy(column, next[head.getAttribute("aria-sort") || "none"]));
  });
}

const dialog = document.querySelector("dialog");
const content = dialog.querySelector(".body");
for (const link of document.querySelectorAll("a.value")) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const origin = document.getElementById(link.hash.slice(1)).cloneNode(true);
    content.replaceChildren(...origin.childNodes);
    dialog.showModal();
    dialog.scrollTop = 0;
  });
}
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
