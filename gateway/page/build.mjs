// Builds dist/: index.html, and assets/ whose names hold a hash of their content, so that browsers may keep them for ever.
import { createHash } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, extname } from "node:path";
import { build } from "esbuild";

const OUT = "dist";
const WORKER = "node_modules/maplibre-gl/dist/maplibre-gl-worker.mjs";
const ATLAS = "node_modules/world-atlas/countries-50m.json";

/** Copy a file to the assets under a name with a hash, and return its address. */
async function asset(path, extension = extname(path)) {
  const content = await readFile(path);
  const hash = createHash("sha256").update(content).digest("hex").slice(0, 8).toUpperCase();
  const name = `${basename(path, extname(path))}-${hash}${extension}`;
  await writeFile(`${OUT}/assets/${name}`, content);
  return `/assets/${name}`;
}

await rm(OUT, { recursive: true, force: true });
await mkdir(`${OUT}/assets`, { recursive: true });
const worker = await asset(WORKER, ".js");
const atlas = await asset(ATLAS);
const { metafile } = await build({
  entryPoints: { page: "src/app.ts", style: "src/style.css" },
  outdir: `${OUT}/assets`,
  entryNames: "[name]-[hash]",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  define: { MAP_WORKER: JSON.stringify(worker), ATLAS: JSON.stringify(atlas) },
  legalComments: "linked",
  metafile: true,
  logLevel: "warning",
});
const addresses = Object.fromEntries(
  Object.entries(metafile.outputs)
    .filter(([, output]) => output.entryPoint)
    .map(([path, output]) => [output.entryPoint, path.slice(OUT.length)]),
);
const index = await readFile("src/index.html", "utf8");
await writeFile(
  `${OUT}/index.html`,
  index.replace("STYLE", addresses["src/style.css"]).replace("SCRIPT", addresses["src/app.ts"]),
);
