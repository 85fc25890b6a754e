// The table of all images: one row each, sorted by a column, one stop for the Tab key.

import { byId, element } from "./dom.js";
import { either, inDecimals } from "./words.js";

/**
 * The table of the page.
 *
 * @param {function(object)} onChoose Is given the item whose row was chosen.
 * @param {function()} onOrder Is told that the rows have another order, or that there are more.
 */
export function createTable(onChoose, onOrder) {
  const body = byId("rows");
  let items = [];
  let columns = [];
  let sorting = { column: 0, direction: 0 };

  function start(model) {
    columns = columnsFor(model);
    sorting = { column: 0, direction: 0 };
    items = [];
    body.replaceChildren();
    byId("columns").replaceChildren(...columns.map((column, place) => {
      const button = element("button", { type: "button" }, column.title);
      button.addEventListener("click", () => sortBy(place));
      return element("th", { scope: "col", class: column.kind }, button);
    }));
    markSorting();
  }

  function add(more) {
    for (const item of more) {
      const button = element("button", { type: "button", class: "file", tabindex: "-1" }, item.name);
      item.row = element("tr", {}, element("th", { scope: "row" }, button));
      item.row.addEventListener("click", () => onChoose(item));
    }
    items.push(...more);
    body.append(...more.map((item) => item.row));
    if (!body.querySelector("[tabindex='0']") && items.length > 0) reach(items[0]);
    more.forEach(update);
    onOrder();
  }

  function update(item) {
    const head = item.row.cells[0];
    if (isRead(item)) {
      item.row.replaceChildren(head, ...columns.slice(1).map((column) => element(
        "td", { class: column.kind, "data-title": column.title }, ...column.write(item),
      )));
    } else {
      const cell = element("td", { class: "none", colspan: columns.length - 1 });
      cell.append(...(item.answer ? refusal(item.answer.unreadable) : ["waiting"]));
      item.row.replaceChildren(head, cell);
    }
  }

  function mark(chosen) {
    body.querySelector("[aria-current]")?.removeAttribute("aria-current");
    chosen.row.setAttribute("aria-current", "true");
    reach(chosen);
    keepInView(chosen.row);
  }

  /** Makes this row the one that the Tab key stops at. */
  function reach(item) {
    body.querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
    buttonOf(item.row).setAttribute("tabindex", "0");
  }

  function sortBy(place) {
    const again = sorting.column === place ? sorting.direction : 0;
    // Up, down, and back to the order of the files.
    sorting = { column: place, direction: { 0: 1, 1: -1, [-1]: 0 }[again] };
    markSorting();
    sort();
  }

  function sort() {
    const { column, direction } = sorting;
    const sorted = items.toSorted((one, other) => one.number - other.number);
    if (direction !== 0) {
      const { key } = columns[column];
      // What was not read has only a name, and comes last either way.
      const has = (item) => column === 0 || isRead(item);
      sorted.sort((one, other) => (
        has(one) && has(other) ? direction * compare(key(one), key(other)) : has(other) - has(one)
      ));
    }
    items = sorted;
    body.append(...items.map((item) => item.row));
    onOrder();
  }

  function markSorting() {
    [...byId("columns").children].forEach((head, place) => {
      const direction = sorting.column === place ? sorting.direction : 0;
      if (direction === 0) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    });
  }

  body.addEventListener("keydown", (event) => {
    const place = items.findIndex((item) => item.row.contains(document.activeElement));
    const wanted = {
      ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: items.length - 1,
    }[event.key];
    if (wanted === undefined || place < 0) return;
    event.preventDefault();
    const item = items[Math.min(Math.max(wanted, 0), items.length - 1)];
    reach(item);
    buttonOf(item.row).focus();
  });

  return {
    start, add, update, mark, sort,
    /** The item so many rows below another, in the order shown; undefined beyond the ends. */
    neighbour: (item, step) => items[items.indexOf(item) + step],
    place: (item) => items.indexOf(item) + 1,
  };
}

const buttonOf = (row) => row.querySelector("button");

/** Scrolls the table's own frame, never the page. */
function keepInView(row) {
  const frame = row.closest(".scroll");
  const above = frame.querySelector("thead").offsetHeight;
  const top = row.offsetTop - above;
  const bottom = row.offsetTop + row.offsetHeight;
  if (top < frame.scrollTop) frame.scrollTop = top;
  else if (bottom > frame.scrollTop + frame.clientHeight) {
    frame.scrollTop = bottom - frame.clientHeight;
  }
}

/** Text by its letters and numbers, numbers by size. */
function compare(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  return String(one).localeCompare(String(other), "en", { numeric: true });
}

function columnsFor(model) {
  const positive = model.operating_point ? model.positive_class : null;
  const shown = (answer) => answer.probabilities[positive ?? answer.predicted];
  const column = (title, kind, key, write) => ({
    title, kind, key: (item) => key(item.answer), write: (item) => write(item.answer),
  });
  return [
    { title: "File", kind: "path", key: (item) => item.name },
    column("Predicted", "class", (answer) => answer.predicted, (answer) => [answer.predicted]),
    column(
      positive ? `Probability of ${positive}` : "Probability",
      "number", shown, (answer) => [inDecimals(shown(answer))],
    ),
    ...(positive
      ? [column("Decision", "class decision", (answer) => answer.decision, (answer) => [answer.decision])]
      : []),
    column("Notes", "notes", noteRank, (answer) => notesOf(answer, model)),
  ];
}

const isRead = (item) => Boolean(item.answer) && !item.answer.unreadable;

function refusal(reason) {
  return [element("b", {}, "Refused."), ` ${reason}`];
}

function noteRank(answer) {
  if (answer.unfamiliar) return 3;
  return answer.prediction_set && answer.prediction_set.length !== 1 ? 2 : 1;
}

function notesOf(answer, model) {
  const notes = [];
  if (answer.unfamiliar) notes.push(element("span", { class: "badge" }, "unfamiliar"));
  const set = answer.prediction_set;
  if (set && set.length !== 1) {
    const all = set.length === model.classes.length;
    notes.push(element("span", { class: "set" }, all ? "any class" : either(set)));
  }
  return notes;
}
