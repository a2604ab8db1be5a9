// The page is complete without this script. It adds a switch of the theme, and sorting and filtering of tables.
"use strict";

// ---- theme ----------------------------------------------------------------------------------------------------------

const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");

function stored() {
  try {
    return localStorage.getItem("frugal-theme");
  } catch {
    return null; // storage may be forbidden: the choice then lasts as long as the page
  }
}

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
}

function addThemeButton() {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "theme";
  const label = () => {
    button.textContent = isDark() ? "Light theme" : "Dark theme";
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("frugal-theme", root.dataset.theme);
    } catch {
      // as above
    }
    label();
  });
  system.addEventListener("change", label);
  label();
  document.querySelector(".head .inner").append(button);
}

// ---- tables ---------------------------------------------------------------------------------------------------------

// What sorting compares: the number that a cell carries, else its text. Cells without a number come last.
function keyOf(row, place, numeric) {
  const cell = row.cells[place];
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  return numeric ? null : cell.textContent.trim();
}

function compare(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return direction * (a - b);
  return direction * String(a).localeCompare(String(b), "en", { numeric: true });
}

function sort(table, place, numeric) {
  const heads = [...table.tHead.rows[0].cells];
  const direction = heads[place].getAttribute("aria-sort") === "ascending" ? -1 : 1;
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[place].setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => [keyOf(row, place, numeric), row]);
  keyed.sort((one, other) => compare(one[0], other[0], direction));
  body.append(...keyed.map(([, row]) => row));
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, place, head.classList.contains("number")));
    head.append(button);
  });
}

function makeFilterable(box, table) {
  const id = `${table.id}-filter`;
  const line = document.createElement("p");
  line.className = "filter";
  const label = document.createElement("label");
  label.htmlFor = id;
  label.textContent = "Show rows that contain";
  const input = document.createElement("input");
  input.type = "search";
  input.id = id;
  input.setAttribute("aria-controls", table.id);
  const told = document.createElement("span");
  told.setAttribute("role", "status");
  line.append(label, input, told);
  box.prepend(line);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    told.textContent = words.length ? `${shown} of ${table.tBodies[0].rows.length} rows` : "";
  });
}

const theme = stored();
if (theme === "light" || theme === "dark") root.dataset.theme = theme;
addThemeButton();
for (const box of document.querySelectorAll(".table")) {
  const table = box.querySelector("table");
  if (table.tBodies[0].rows.length > 1) makeSortable(table);
  if (box.dataset.filter !== undefined) makeFilterable(box, table);
}
