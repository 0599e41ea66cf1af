// SPDX-License-Identifier: Apache-2.0
"use strict";
{
  const body = document.querySelector("tbody");
  const rows = [...body.rows];
  const order = new Intl.Collator("en", { numeric: true });
  const headings = [...document.querySelectorAll("th")];

  const sort = (heading, column) => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    const sign = down ? -1 : 1;
    for (const each of headings) each.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const keyed = rows.map((row) => [row.cells[column].textContent, row]);
    keyed.sort((one, other) => sign * order.compare(one[0], other[0]));
    body.append(...keyed.map((each) => each[1]));
  };
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(heading, column));
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
  });

  const search = document.getElementById("search");
  const count = document.getElementById("count");
  const texts = rows.map((row) => [...row.cells].map((cell) => cell.textContent).join("\n").toLowerCase());
  const filter = () => {
    const words = search.value.toLowerCase().split(" ").filter(Boolean);
    let shown = 0;
    rows.forEach((row, number) => {
      row.hidden = !words.every((word) => texts[number].includes(word));
      if (!row.hidden) shown += 1;
    });
    count.textContent = `${shown} of ${rows.length}`;
  };
  search.addEventListener("input", filter);
  document.querySelector(".search").hidden = false;
  filter();
}
