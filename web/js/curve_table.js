// @ts-check
/** A run's numbers as a table for a spreadsheet. */

/**
 * Tab-separated values: a row a record, a column for each scalar that any of them has, the step first.
 *
 * @param {Record<string, number>[]} records
 */
export function curveTable(records) {
  const names = [...new Set(records.flatMap((record) => Object.keys(record)))].filter((name) => name !== "step");
  const rows = records.map((record) => ["step", ...names].map((name) => record[name] ?? "").join("\t"));
  return [["step", ...names].join("\t"), ...rows].join("\n") + "\n";
}
