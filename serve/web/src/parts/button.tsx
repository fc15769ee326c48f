import type { ButtonHTMLAttributes } from "preact";
import { Icon, type IconName } from "./icon";

type Props = Omit<ButtonHTMLAttributes<HTMLButtonElement>, "label" | "icon" | "class"> & {
  icon: IconName;
  label: string;
  class?: string;
};

/** A button that shows a drawing and says a word. */
export function IconButton({ icon, label, class: extra = "", ...rest }: Props) {
  return (
    <button type="button" class={`icon-button ${extra}`} aria-label={label} title={label} {...rest}>
      <Icon name={icon} />
    </button>
  );
}
