// Sorting, copying and charts. Without this script the page is complete, only still.

const said = document.getElementById("said");
const missing = (text) => text === "";

// An empty order comes last in either direction; numbers compare as numbers.
function compare(one, other, sign) {
  if (missing(one) || missing(other)) return Number(missing(one)) - Number(missing(other));
  const [a, b] = [Number(one), Number(other)];
  if (!Number.isNaN(a) && !Number.isNaN(b)) return sign * (a - b);
  return sign * one.localeCompare(other, "en", { numeric: true });
}

function sort(button) {
  const head = button.closest("th");
  const table = head.closest("table");
  const place = [...head.parentElement.children].indexOf(head);
  const next = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
  for (const other of head.parentElement.children) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", next);
  const sign = next === "ascending" ? 1 : -1;
  const order = (row) => row.children[place].dataset.order;
  const rows = [...table.tBodies[0].rows].sort((a, b) => compare(order(a), order(b), sign));
  table.tBodies[0].append(...rows);
  said.textContent = `Sorted by ${button.textContent.trim()}, ${next}`;
}

// Browsers without a clipboard for files leave the command selected, ready for the keyboard.
async function copy(button) {
  const code = button.previousElementSibling;
  try {
    await navigator.clipboard.writeText(code.textContent);
    said.textContent = "Copied";
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    said.textContent = "Selected; press Control or Command and C";
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

function pick(button) {
  const figure = button.closest("figure");
  const chosen = button.getAttribute("aria-pressed") !== "true";
  for (const other of figure.querySelectorAll(".pick")) other.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-pressed", String(chosen));
  figure.view?.signal("picked", chosen ? button.dataset.name : "").runAsync();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.classList.contains("sort")) sort(button);
  if (button?.classList.contains("copy")) copy(button);
  if (button?.classList.contains("pick")) pick(button);
});

// Closed parts are printed too.
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const part of closed) part.open = true;
});
addEventListener("afterprint", () => { for (const part of closed) part.open = false; });

for (const figure of document.querySelectorAll("figure.chart")) {
  const spec = JSON.parse(figure.querySelector(".spec").textContent);
  const plot = figure.querySelector(".plot");
  const made = await vegaEmbed(plot, spec, { renderer: "svg", actions: false, tooltip: { theme: "custom" } });
  figure.view = made.view;
}
document.documentElement.dataset.ready = "true";
