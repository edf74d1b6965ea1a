/** Numbers and times as text. All times are UTC. */

export const UNKNOWN = "–";

/** Unix time in seconds as 12:31:03.5. */
export function time(timestamp: number | null): string {
  return timestamp === null ? UNKNOWN : iso(timestamp).slice(11, 21) || UNKNOWN;
}

/** Unix time in seconds as 2024-11-11 12:31:03. */
export function dateAndTime(timestamp: number): string {
  return iso(timestamp).slice(0, 19).replace("T", " ");
}

/** Unix time in seconds as ISO 8601. */
export function iso(timestamp: number): string {
  const date = new Date(timestamp * 1000);
  return Number.isNaN(date.getTime()) ? UNKNOWN : date.toISOString();
}

export function kilometres(metres: number | undefined): string {
  if (metres === undefined) return UNKNOWN;
  const text = (metres / 1000).toFixed(1);
  return text === "-0.0" ? "0.0" : text;
}

export function probability(value: number | null | undefined): string {
  return value === null || value === undefined ? UNKNOWN : value.toFixed(2);
}

export function signedSeconds(seconds: number): string {
  return `${seconds < 0 ? "−" : "+"}${Math.abs(seconds).toFixed(1)} s`;
}
