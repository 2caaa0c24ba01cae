// @ts-check
/** Files that were chosen or dropped, folders among them, with their paths. */

/** @typedef {{name: string, file: File}} NamedFile `name` is the path inside what was dropped */

/** @param {DragEvent} event */
export function holdsFiles(event) {
  return event.dataTransfer?.types.includes("Files") === true;
}

/** @param {DataTransfer} transfer @returns {Promise<NamedFile[]>} */
export async function droppedFiles(transfer) {
  // The list is emptied as soon as the event is over.
  const items = Array.from(transfer.items, (item) => ({ entry: item.webkitGetAsEntry(), file: item.getAsFile() }));
  /** @type {NamedFile[]} */
  const found = [];
  for (const { entry, file } of items) {
    // What lies in a single folder is meant, not the folder; of several, each stays apart.
    if (entry?.isDirectory) await collect(entry, items.length > 1 ? `${entry.name}/` : "", found);
    else if (file) found.push(...namedFiles([file]));
  }
  return found;
}

/** @param {Iterable<File>} files @returns {NamedFile[]} */
export function namedFiles(files) {
  return Array.from(files, (file) => ({ name: file.name, file }));
}

/** @param {FileSystemEntry} folder @param {string} prefix @param {NamedFile[]} found */
async function collect(folder, prefix, found) {
  const reader = /** @type {FileSystemDirectoryEntry} */ (folder).createReader();
  for (;;) {
    /** @type {FileSystemEntry[]} */
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (entries.length === 0) return;
    for (const entry of entries) {
      if (entry.name.startsWith(".")) continue;
      if (entry.isDirectory) {
        await collect(entry, `${prefix}${entry.name}/`, found);
        continue;
      }
      /** @type {File} */
      const file = await new Promise((resolve, reject) => {
        /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject);
      });
      found.push({ name: `${prefix}${entry.name}`, file });
    }
  }
}
