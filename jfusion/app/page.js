// A part of the page that scrolls sideways on a narrow screen can be reached by keys.
new MutationObserver(() => {
  const results = document.querySelector("#jf-results:not([tabindex])");
  if (results) results.tabIndex = 0;
}).observe(document.documentElement, { childList: true, subtree: true });

// A pasted image goes into the first empty field for files on the tab that is shown.
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
  const fields = [...document.querySelectorAll(".jf-drop input[type=file]")];
  const field = fields.find((input) => input.closest("[role=tabpanel]")?.offsetParent !== null);
  if (!files.length || !field) return;
  const transfer = new DataTransfer();
  transfer.items.add(files[0]);
  field.files = transfer.files;
  field.dispatchEvent(new Event("change", { bubbles: true }));
  event.preventDefault();
});
