/** The colours of the style sheet, for what is drawn on a canvas, and the wishes of the person who looks at it. */

const NAMES = [
  "ocean", "land", "coast", "border", "graticule", "halo", "flight", "reentry", "selected", "label", "text", "muted", "line", "panel",
] as const;

export type Palette = Record<(typeof NAMES)[number], string>;

export function palette(): Palette {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()])) as Palette;
}

const dark = matchMedia("(prefers-color-scheme: dark)");

/** Call `repaint` whenever the colours change. Returns the function that ends it. */
export function onThemeChange(repaint: () => void): () => void {
  dark.addEventListener("change", repaint);
  return () => dark.removeEventListener("change", repaint);
}
