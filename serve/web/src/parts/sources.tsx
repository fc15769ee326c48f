// Numbered sources under a reply, and the citations that lead to them.

import { useWords } from "../state";
import { Link, safeLink } from "../markdown";
import type { Turn } from "../types";

const nameOf = (turn: Turn, number: number) => `source-${turn.key}-${number}`;

export function Citation({ turn, number }: { turn: Turn; number: number }) {
  const words = useWords();
  const page = turn.references.find((reference) => reference.number === number);
  if (!page) return <sup class="citation is-plain">{number}</sup>;
  const go = () => {
    const target = document.getElementById(nameOf(turn, number));
    const list = target?.closest("details");
    if (list) list.open = true;
    target?.focus();
    target?.scrollIntoView({ block: "nearest" });
  };
  return (
    <sup class="citation">
      <button type="button" title={page.title} aria-label={`${words.referenceOf} ${number}: ${page.title}`} onClick={go}>{number}</button>
    </sup>
  );
}

export function Sources({ turn }: { turn: Turn }) {
  const words = useWords();
  if (!turn.references.length) return null;
  return (
    <details class="sources" open={turn.references.length <= 3}>
      <summary>{words.references} <span class="count">{turn.references.length}</span></summary>
      <ol>
        {turn.references.map((page) => (
          <li key={page.number} id={nameOf(turn, page.number)} value={page.number} tabIndex={-1}>
            <span class="source-number" aria-hidden="true">{page.number}</span>
            <div>
              <strong><Link href={page.source}>{page.title}</Link></strong>{" "}
              <span class="host">{safeLink(page.source)?.host ?? page.source}</span>
              <p>{page.text}</p>
            </div>
          </li>
        ))}
      </ol>
    </details>
  );
}
