// TeX as MathML, which browsers draw with the system's fonts and screen readers read. The renderer is
// loaded when the first formula appears.

import { useEffect, useRef } from "preact/hooks";

type Render = typeof import("temml").render;
let renderer: Promise<Render> | null = null;

function loadRenderer(): Promise<Render> {
  renderer ??= import("./temml").then((module) => module.default.render);
  return renderer;
}

const LIMITS = { trust: false, throwOnError: false, strict: false, maxExpand: 200, maxSize: [20, 20] as [number, number] };

export function Maths({ source, isDisplay }: { source: string; isDisplay: boolean }) {
  const place = useRef<HTMLSpanElement>(null);
  useEffect(() => {
    let isWanted = true;
    loadRenderer().then((render) => {
      // Elements are made one by one and texts are text nodes; `trust: false` refuses links.
      if (isWanted && place.current) render(source, place.current, { ...LIMITS, displayMode: isDisplay });
    }, () => undefined); // without the renderer the source stays
    return () => {
      isWanted = false;
    };
  }, [source, isDisplay]);
  return <span ref={place} key={source} class={isDisplay ? "maths display" : "maths"}>{source}</span>;
}
