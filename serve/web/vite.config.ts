import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type Plugin } from "vite";

/** The licenses of what the bundle holds, in one text beside it. */
function licenses(): Plugin {
  return {
    name: "licenses",
    generateBundle() {
      const { dependencies } = JSON.parse(readFileSync("package.json", "utf8")) as { dependencies: Record<string, string> };
      const texts = Object.entries(dependencies).map(([name, version]) => {
        const folder = join("node_modules", name);
        const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
        if (!file || !existsSync(join(folder, file))) this.error(`${name} comes without a license text`);
        return `${name} ${version}\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
      });
      this.emitFile({ type: "asset", fileName: "licenses.txt", source: texts.join(`\n${"-".repeat(80)}\n\n`) });
    },
  };
}

// Fixed names: the committed output is compared with the source by a test. No source maps and no
// preload polyfill: the page runs under a policy without inline code.
export default defineConfig({
  base: "/static/",
  plugins: [licenses()],
  build: {
    outDir: "dist",
    assetsDir: "",
    assetsInlineLimit: 0,
    target: "es2022",
    cssTarget: ["chrome125", "firefox125", "safari17.5"],
    sourcemap: false,
    modulePreload: { polyfill: false },
    rollupOptions: {
      output: {
        entryFileNames: "app.js",
        chunkFileNames: "[name].js",
        assetFileNames: "[name][extname]",
      },
    },
  },
});
