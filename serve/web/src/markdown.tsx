// Markdown as elements. Model text never becomes an HTML string: the lexer's tokens are turned into
// nodes one by one, HTML inside the text stays text, and addresses pass an allow list.

import { Marked, type Token, type TokenizerAndRendererExtension, type Tokens } from "marked";
import { Component, createContext, type ComponentChildren, type VNode } from "preact";
import { useContext, useMemo } from "preact/hooks";
import { Code } from "./code";
import { Maths } from "./maths";
import { useWords } from "./state";

type Cite = (number: number) => VNode | null;
const CiteContext = createContext<Cite>(() => null);

/** `<sup><|1|></sup>`: how the model cites a source. */
const citation: TokenizerAndRendererExtension = {
  name: "citation",
  level: "inline",
  start: (source) => source.indexOf("<sup><|"),
  tokenizer(source) {
    const match = /^<sup><\|(\d{1,3})\|><\/sup>/.exec(source);
    return match ? { type: "citation", raw: match[0], number: Number(match[1]) } : undefined;
  },
};

/** `\[…\]` and `$$…$$` on lines of their own. */
const displayMaths: TokenizerAndRendererExtension = {
  name: "displayMaths",
  level: "block",
  start(source) {
    const line = /\n(?:\$\$|\\\[)/.exec(source);
    return line ? line.index + 1 : undefined;
  },
  tokenizer(source) {
    const match = /^(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/.exec(source);
    return match ? { type: "maths", raw: match[0], text: match[1] ?? match[2] ?? "", isDisplay: true } : undefined;
  },
};

/** `\(…\)`, `$$…$$` and `$…$`; a dollar before a digit's price or with a blank inside is a dollar. */
const inlineMaths: TokenizerAndRendererExtension = {
  name: "inlineMaths",
  level: "inline",
  start: (source) => /\$|\\\(|\\\[/.exec(source)?.index,
  tokenizer(source) {
    const match =
      /^\\\(([\s\S]+?)\\\)|^\\\[([\s\S]+?)\\\]|^\$\$([^$]+?)\$\$|^\$(?![\s$])((?:\\.|[^$\\\n])*?[^\s\\$])\$(?!\d)/.exec(source);
    if (!match) return undefined;
    const isDisplay = match[2] !== undefined || match[3] !== undefined;
    return { type: "maths", raw: match[0], text: match[1] ?? match[2] ?? match[3] ?? match[4] ?? "", isDisplay };
  },
};

const marked = new Marked({ gfm: true, breaks: true });
marked.use({ extensions: [citation, displayMaths, inlineMaths] });

type MarkdownProps = { text: string; cite: Cite };

/** Quotes and lists inside each other to a depth that nobody writes and that takes long to draw. */
const TOO_DEEP = /^(?:[ \t]*(?:>|[-*+][ \t]|\d{1,9}[.)][ \t])){24}/m;

/** Markdown, or the plain text where that cannot be drawn. */
export class Markdown extends Component<MarkdownProps, { failed: string | null }> {
  override state = { failed: null };

  override componentDidCatch(): void {
    this.setState({ failed: this.props.text });
  }

  override render({ text, cite }: MarkdownProps): VNode {
    if (this.state.failed === text || TOO_DEEP.test(text)) return <div class="prose is-plain" dir="auto">{text}</div>;
    return <Drawn text={text} cite={cite} />;
  }
}

function Drawn({ text, cite }: MarkdownProps) {
  const tokens = useMemo(() => marked.lexer(text), [text]);
  return (
    <CiteContext.Provider value={cite}>
      <div class="prose" dir="auto">{blocks(tokens)}</div>
    </CiteContext.Provider>
  );
}

function blocks(tokens: Token[] | undefined): ComponentChildren {
  return tokens?.map((token, index) => <Piece key={index} token={token} />);
}

function Piece({ token }: { token: Token }): VNode | null {
  const cite = useContext(CiteContext);
  switch (token.type) {
    case "space":
    case "def":
    case "checkbox": return null;
    case "paragraph": return <p>{blocks(token.tokens)}</p>;
    case "heading": return <Heading depth={(token as Tokens.Heading).depth}>{blocks(token.tokens)}</Heading>;
    case "code": return <Code text={(token as Tokens.Code).text} language={(token as Tokens.Code).lang ?? ""} />;
    case "blockquote": return <blockquote>{blocks(token.tokens)}</blockquote>;
    case "list": return <List list={token as Tokens.List} />;
    case "table": return <Table table={token as Tokens.Table} />;
    case "hr": return <hr />;
    case "strong": return <strong>{blocks(token.tokens)}</strong>;
    case "em": return <em>{blocks(token.tokens)}</em>;
    case "del": return <del>{blocks(token.tokens)}</del>;
    case "codespan": return <code>{(token as Tokens.Codespan).text}</code>;
    case "br": return <br />;
    case "link": return <Link href={(token as Tokens.Link).href}>{blocks(token.tokens)}</Link>;
    case "image": return <Picture image={token as Tokens.Image} />;
    case "maths": return <Maths source={String(token["text"])} isDisplay={Boolean(token["isDisplay"])} />;
    case "citation": return cite(Number(token["number"]));
    case "text": return <>{token.tokens ? blocks(token.tokens) : decoded((token as Tokens.Text).text)}</>;
    case "escape": return <>{(token as Tokens.Escape).text}</>;
    default: return <>{token.raw}</>;
  }
}

const ENTITIES: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };

/** Markdown lets text hold entities; what they stand for is shown as text. */
function decoded(text: string): string {
  return text.replace(/&(amp|lt|gt|quot|apos|nbsp|#39);/g, (_, name: string) => ENTITIES[name] ?? "'");
}

function Heading({ depth, children }: { depth: number; children: ComponentChildren }) {
  // The page has the first two levels for itself.
  if (depth <= 1) return <h3>{children}</h3>;
  return depth === 2 ? <h4>{children}</h4> : <h5>{children}</h5>;
}

function List({ list }: { list: Tokens.List }) {
  const words = useWords();
  const items = list.items.map((item, index) => (
    <li key={index} class={item.task ? "task" : undefined}>
      {item.task && <input type="checkbox" checked={Boolean(item.checked)} aria-label={item.checked ? words.taskDone : words.taskOpen} disabled />}
      {blocks(item.tokens)}
    </li>
  ));
  return list.ordered ? <ol start={Number(list.start) || 1}>{items}</ol> : <ul>{items}</ul>;
}

function Table({ table }: { table: Tokens.Table }) {
  const words = useWords();
  const side = (index: number) => (table.align[index] ? `to-${table.align[index]}` : undefined);
  return (
    <div class="table" role="region" tabIndex={0} aria-label={words.table}>
      <table>
        <thead>
          <tr>{table.header.map((cell, index) => <th key={index} class={side(index)}>{blocks(cell.tokens)}</th>)}</tr>
        </thead>
        <tbody>
          {table.rows.map((row, at) => (
            <tr key={at}>{row.map((cell, index) => <td key={index} class={side(index)}>{blocks(cell.tokens)}</td>)}</tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** The address if it is one that a click may open, and its host. */
export function safeLink(href: string): { href: string; host: string } | null {
  try {
    const url = new URL(href);
    const isSafe = ["http:", "https:", "mailto:"].includes(url.protocol);
    return isSafe ? { href: url.href, host: url.host || url.pathname } : null;
  } catch {
    return null; // relative addresses would lead into this service
  }
}

export function Link({ href, children }: { href: string; children: ComponentChildren }) {
  const link = safeLink(href);
  if (!link) return <>{children}</>;
  return <a href={link.href} title={link.href} target="_blank" rel="noopener noreferrer nofollow">{children}</a>;
}

/** Pictures of this service are shown; a foreign one would tell its host who reads, so it is a link. */
function Picture({ image }: { image: Tokens.Image }) {
  if (/^\/app\/images\/[0-9a-f]{1,64}$/.test(image.href)) {
    return <img class="picture" src={image.href} alt={image.text} loading="lazy" />;
  }
  const link = safeLink(image.href);
  return link ? <Link href={image.href}>{image.text || link.host} ({link.host})</Link> : <>{image.raw}</>;
}
