// Unpacks the Chromium of @sparticuz/chromium, which is meant for another place than a folder of
// ours: node unpack.mjs FOLDER writes FOLDER/chromium, and what it needs beside it.
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { brotliDecompressSync } from "node:zlib";

const folder = process.argv[2];
const packed = join(folder, "node_modules", "@sparticuz", "chromium", "bin");

writeFileSync(join(folder, "chromium"), brotliDecompressSync(readFileSync(join(packed, "chromium.br"))), { mode: 0o755 });
for (const [name, into] of [["al2023", "system"], ["fonts", "."], ["swiftshader", "."]]) {
  const archive = join(folder, `${name}.tar`);
  writeFileSync(archive, brotliDecompressSync(readFileSync(join(packed, `${name}.tar.br`))));
  mkdirSync(join(folder, into), { recursive: true });
  execFileSync("tar", ["--extract", "--no-same-owner", "--file", archive, "--directory", join(folder, into)]);
  rmSync(archive);
}
// Fonts of its own, as there may be none here; the system's too, for what those cannot write.
const fonts = [resolve(folder, "fonts"), "/usr/share/fonts"].map((path) => `<dir>${path}</dir>`);
writeFileSync(join(folder, "fonts.conf"), `<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>${fonts.join("")}<cachedir>${resolve(folder, "cache")}</cachedir></fontconfig>
`);
