// Moves rows. The order and the rank under every column stand in its cells: data-order, data-rank.
"use strict";
for (const table of document.querySelectorAll("table.board")) {
  const heads = [...table.tHead.rows[1].cells];
  const body = table.tBodies[0];
  const sortBy = (column, ascending) => {
    const place = (row) => {
      const order = row.cells[column].dataset.order;
      return order === undefined ? Infinity : ascending ? -order : Number(order);
    };
    const rows = [...body.rows];
    const places = new Map(rows.map((row) => [row, place(row)]));
    rows.sort((a, b) => (places.get(a) === places.get(b) ? 0 : places.get(a) - places.get(b)));
    for (const row of rows) {
      row.cells[0].textContent = row.cells[column].dataset.rank || "";
      for (const cell of row.cells) cell.classList.toggle("sorted", cell.cellIndex === column);
    }
    body.append(...rows);
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
  };
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (button) button.addEventListener("click", () => sortBy(column, head.getAttribute("aria-sort") === "descending"));
  });
}
