// Numbers and answers in the words of the report and the glossary.

/** A probability in three decimals; never as 0 or 1 where it is neither. */
export function inDecimals(probability) {
  if (probability > 0 && probability < 0.0005) return "< 0.001";
  if (probability < 1 && probability >= 0.9995) return "> 0.999";
  return probability.toFixed(3);
}

/** A probability beside its threshold, in as many decimals as tell the two apart. */
function besideThreshold(probability, threshold) {
  for (let decimals = 3; decimals < 9; decimals += 1) {
    const pair = [probability.toFixed(decimals), threshold.toFixed(decimals)];
    if (pair[0] !== pair[1] || probability === threshold) return pair;
  }
  return [String(probability), String(threshold)];
}

/** "1 image", "500 images". */
export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

/** "A", "A or B", "A, B or C". */
export function either(names) {
  if (names.length < 2) return names.join("");
  return `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;
}

/** What the operating point says of an image, and why. */
export function decisionInWords(answer, model) {
  const { positive_class: positive, operating_point: point } = model;
  const [known, threshold] = besideThreshold(answer.probabilities[positive], point.threshold);
  const isPositive = answer.decision === positive;
  const reason = isPositive ? "reaches" : "is below";
  const differs = isPositive !== (answer.predicted === positive);
  const both = differs
    ? " The most probable class is another; the decision follows the operating point alone."
    : "";
  return `The probability of ${positive}, ${known}, ${reason} the operating point, ${threshold}.${both}`;
}

/** Which classes remain, and what that promises. */
export function setInWords(answer, model) {
  const set = answer.prediction_set;
  const share = `${Math.round(model.prediction_set_level * 100)} %`;
  const promise = `Of images like those it was fitted on, ${share} have their true class in the set.`;
  if (answer.unfamiliar) return "What a set promises does not hold for unfamiliar images.";
  if (set.length === model.classes.length) return `No class can be ruled out. ${promise}`;
  if (set.length === 1) return `No other class is probable enough to belong to it. ${promise}`;
  return `These cannot be told apart here. ${promise}`;
}

/** Why an image is called unfamiliar. */
export function unfamiliarInWords(answer) {
  const known = Number.isFinite(answer.distance) && Number.isFinite(answer.limit);
  const numbers = known
    ? ` (distance ${answer.distance.toPrecision(3)}, limit ${answer.limit.toPrecision(3)})`
    : "";
  return `It lies farther from the training images than 99 % of held-out images do${numbers}. `
    + "It may be of another kind, body part or device. The answer is worth little.";
}

/** One sentence for a screen reader. */
export function inOneSentence(item) {
  const { name, answer } = item;
  if (!answer) return `${name}: no answer yet.`;
  if (answer.unreadable) return `${name} was refused. ${answer.unreadable}`;
  const probable = inDecimals(answer.probabilities[answer.predicted]);
  const decision = answer.decision ? ` Decision: ${answer.decision}.` : "";
  const warning = answer.unfamiliar ? " Unfamiliar image." : "";
  return `${name}: ${answer.predicted}, probability ${probable}.${decision}${warning}`;
}
