// The comparison of images, in the page of `jfusion app` and in HTML reports: a divider between two of
// several images. Everything listens on the document, since the page replaces parts of itself.
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
})();
