// Elements are made here and nowhere from markup: file names, class names and reasons are foreign.

/** The element of the page with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * Makes an element. Children are elements or text; text is never read as markup.
 *
 * @param {string} tag
 * @param {object} properties Attributes by name; "class" and "text" as well.
 * @param {...(Node|string)} children
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "text") made.textContent = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Shows or hides an element. */
export function show(id, isShown = true) {
  byId(id).hidden = !isShown;
}

/** Says something to a screen reader, once. */
export function announce(text) {
  byId("status").textContent = text;
}

/** Shows what went wrong; "" takes it away. */
export function complain(text) {
  byId("problem").textContent = text;
  show("problem", text !== "");
}
