// What was chosen or dropped -> files, each with its place in the folder as its name.

/** The files of an input, without hidden ones. */
export function filesOfInput(input) {
  return [...input.files]
    .map((file) => ({ file, name: file.webkitRelativePath || file.name }))
    .filter(isVisible);
}

/** The files that were dropped, folders walked through, without hidden ones. */
export async function filesOfDrop(transfer) {
  // All entries first: the list is empty once this function has waited.
  const entries = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const found = [];
  for (const entry of entries) {
    if (entry instanceof File) found.push({ file: entry, name: entry.name });
    else if (entry) await walk(entry, "", found);
  }
  return found.filter(isVisible);
}

async function walk(entry, above, found) {
  const name = above + entry.name;
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); });
    found.push({ file, name });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A reader gives a hundred entries at a time.
    const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (some.length === 0) return;
    for (const inside of some) await walk(inside, `${name}/`, found);
  }
}

/** Files such as .DS_Store and Thumbs.db lie in many folders and are no images. */
function isVisible({ name }) {
  const last = name.split("/").at(-1);
  return !last.startsWith(".") && last.toLowerCase() !== "thumbs.db";
}
