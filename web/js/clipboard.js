// @ts-check
/** Text into the clipboard, also from a page that is not served over https. */

/**
 * Call it from a click or a key press: browsers refuse it elsewhere.
 *
 * @param {string} text
 * @returns {Promise<void>} rejects where the browser refuses
 */
export async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  // Without https there is no clipboard object, but what the copy command takes can be replaced.
  let taken = false;
  const replace = (/** @type {ClipboardEvent} */ event) => {
    event.clipboardData?.setData("text/plain", text);
    event.preventDefault();
    event.stopImmediatePropagation();
    taken = true;
  };
  document.addEventListener("copy", replace, { capture: true, once: true });
  document.execCommand("copy");
  document.removeEventListener("copy", replace, { capture: true });
  if (!taken) throw new Error("The browser does not let this page copy. Open ComfyUI over https or as localhost.");
}
