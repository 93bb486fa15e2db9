// The comparison of images, in the page of `jfusion app` and in HTML reports: a divider between two of
// several images, and images side by side that are enlarged together. Everything listens on the document, since the page replaces parts of itself.
(() => {
  const show = (viewer) => {
    const name = (side) => viewer.querySelector(`select[data-side=${side}]`).value;
    const [left, right] = [name("left"), name("right")];
    for (const image of viewer.querySelectorAll(".jf-stage img")) {
      image.classList.toggle("jf-left", image.dataset.name === left);
      image.classList.toggle("jf-right", image.dataset.name === right);
    }
    viewer.querySelector(".jf-tag-left").textContent = left;
    viewer.querySelector(".jf-tag-right").textContent = right;
  };
  document.addEventListener("input", (event) => {
    const divider = event.target.closest(".jf-stage input");
    if (divider) divider.closest(".jf-stage").style.setProperty("--at", divider.value);
  });
  document.addEventListener("change", (event) => {
    const select = event.target.closest(".jf-viewer select[data-side]");
    if (select) show(select.closest(".jf-viewer"));
  });

  // Images side by side: --zoom, and --x and --y in percent of an image, are those of the whole grid.
  const state = (grid) => ({ zoom: +(grid.dataset.zoom || 1), x: +(grid.dataset.x || 0), y: +(grid.dataset.y || 0) });
  const zoomTo = (group, change) => {
    const grid = group.querySelector(".jf-grid");
    const { zoom, x, y } = { ...state(grid), ...change };
    const most = (zoom - 1) * 50;
    const held = (value) => Math.max(-most, Math.min(most, value));
    for (const [key, value] of Object.entries({ zoom, x: held(x), y: held(y) })) {
      grid.dataset[key] = value;
      grid.style.setProperty(`--${key}`, value);
    }
    grid.classList.toggle("jf-zoomed", zoom > 1);
    group.querySelector(".jf-zoom").value = zoom;
  };
  const groupOf = (target) => target.closest?.(".jf-group");
  document.addEventListener("input", (event) => {
    if (event.target.matches(".jf-zoom")) zoomTo(groupOf(event.target), { zoom: +event.target.value });
  });
  document.addEventListener("keydown", (event) => {
    if (!event.target.matches?.(".jf-grid")) return;
    const { zoom, x, y } = state(event.target);
    const moves = {
      ArrowLeft: { x: x + 10 }, ArrowRight: { x: x - 10 }, ArrowUp: { y: y + 10 }, ArrowDown: { y: y - 10 },
      "+": { zoom: Math.min(8, zoom + 0.5) }, "-": { zoom: Math.max(1, zoom - 0.5) }, 0: { zoom: 1 },
    };
    if (!moves[event.key]) return;
    zoomTo(groupOf(event.target), moves[event.key]);
    event.preventDefault();
  });
  let held = null;
  document.addEventListener("pointerdown", (event) => {
    const frame = event.target.closest?.(".jf-window");
    if (!frame) return;
    const grid = frame.closest(".jf-grid");
    held = { grid, frame, from: [event.clientX, event.clientY], ...state(grid) };
    if (held.zoom > 1) event.preventDefault();
  });
  document.addEventListener("pointermove", (event) => {
    if (!held || held.zoom <= 1) return;
    const x = held.x + ((event.clientX - held.from[0]) / held.frame.clientWidth) * 100;
    const y = held.y + ((event.clientY - held.from[1]) / held.frame.clientHeight) * 100;
    zoomTo(groupOf(held.grid), { x, y });
  });
  for (const name of ["pointerup", "pointercancel"]) document.addEventListener(name, () => { held = null; });
})();
