import { useApp, useAppState, useWords } from "../state";
import { EXAMPLES } from "../words";
import { ConsentLine } from "./dialogs";
import { Icon, type IconName } from "./icon";

export function Welcome() {
  const app = useApp();
  const { preferences, settings } = useAppState();
  const words = useWords();
  const offered = new Set(settings?.tools.map((tool) => tool.name));
  const examples = EXAMPLES[preferences.language].filter((example) => offered.has(example.tool));
  return (
    <div class="welcome">
      <img src="/static/icon.svg" alt="" width="52" height="52" />
      <h1>{words.welcome}</h1>
      <p>{words.welcomeHint}</p>
      <div class="examples">
        {examples.map(({ tool, text }) => (
          <button key={tool} type="button" class="example" onClick={() => app.askExample(tool, text)}>
            <span class="example-tool"><Icon name={tool as IconName} /> {words[tool as keyof typeof words]}</span>
            <span>{text}</span>
          </button>
        ))}
      </div>
      <ConsentLine />
    </div>
  );
}
