// Answers -> a CSV file, made in the browser.

// What stands where sending was stopped, or failed, before the image had its turn.
const NO_ANSWER = { unreadable: "not answered" };

/** The table of all items, in the columns of `medlens predict`. */
function toCsv(items, model) {
  const header = [
    "path", "predicted", "decision", "prediction_set", ...model.classes.map((name) => `prob_${name}`),
    "distance", "unfamiliar", "unreadable", "model",
  ];
  const lines = items.map(({ name, answer }) => lineOf(name, answer ?? NO_ANSWER, model));
  return [header, ...lines].map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

function lineOf(name, answer, model) {
  return [
    name,
    answer.predicted ?? "",
    answer.decision ?? "",
    (answer.prediction_set ?? []).join(" | "),
    ...model.classes.map((one) => answer.probabilities?.[one] ?? ""),
    answer.distance ?? "",
    answer.unreadable ? "" : Number(answer.unfamiliar),
    answer.unreadable ?? "",
    model.name,
  ];
}

/** A number as it is, text quoted where it must be: a name is to be found again by this table. */
function cell(value) {
  if (typeof value === "number") return String(value);
  return /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}

/** The bytes of a CSV file; the mark before them tells spreadsheets that it is UTF-8. */
export function csvFile(items, model) {
  return new Blob(["\ufeff", toCsv(items, model)], { type: "text/csv;charset=utf-8" });
}

/** Gives the user a file. */
export function save(content, name) {
  const address = URL.createObjectURL(content);
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  // Not at once: the browser fetches it after this function ended.
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
