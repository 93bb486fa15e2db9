// A report: light or dark as the system is, Chinese in a Chinese browser, tables that are sorted by a click.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => document.documentElement.classList.toggle("dark", dark.matches);
  dark.addEventListener("change", paint);
  paint();
  if (navigator.language.toLowerCase().startsWith("zh")) {
    document.documentElement.lang = "zh";
    for (const words of document.querySelectorAll("[data-zh]")) words.textContent = words.dataset.zh;
  }
  const value = (row, column) => row.cells[column].textContent;
  const compare = (x, y) => {
    const [a, b] = [Number.parseFloat(x), Number.parseFloat(y)];
    if (String(x).trim() !== "-" && String(y).trim() !== "-" && !Number.isNaN(a) && !Number.isNaN(b) && a !== b) return a - b;
    return x.localeCompare(y, undefined, { numeric: true });
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".jf-sorted thead button");
    if (!button) return;
    const head = button.closest("th");
    const table = head.closest("table");
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((x, y) => compare(value(x, head.cellIndex), value(y, head.cellIndex)) * (descending ? -1 : 1));
    table.tBodies[0].append(...rows);
  });
})();
