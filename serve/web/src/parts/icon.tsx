// Line drawings on a 24 x 24 field, drawn for this page; emoji depend on fonts that machines may lack.

const SHAPES = {
  plus: "M12 5v14 M5 12h14",
  search: "M11 4a7 7 0 1 0 0 14a7 7 0 0 0 0-14z M16.200 16.200L20.500 20.500",
  menu: "M4 7h16 M4 12h16 M4 17h10",
  close: "M6 6l12 12 M18 6L6 18",
  more: "M5.500 12h.01 M12 12h.01 M18.500 12h.01",
  settings: "M4 8h8 M18 8h2 M4 16h2 M12 16h8 M15 5.500a2.500 2.500 0 1 0 0 5a2.500 2.500 0 0 0 0-5z M9 13.500a2.500 2.500 0 1 0 0 5a2.500 2.500 0 0 0 0-5z",
  send: "M12 19V5.500 M6 11l6-6l6 6",
  stop: "M8 8h8v8H8z",
  down: "M12 5v13 M6 13l6 6l6-6",
  chevron: "M9 6l6 6l-6 6",
  left: "M15 6l-6 6l6 6",
  check: "M5 12.500l4.500 4.500L19 7.500",
  cross: "M7 7l10 10 M17 7L7 17",
  blocked: "M12 4a8 8 0 1 0 0 16a8 8 0 0 0 0-16z M6.500 6.500l11 11",
  copy: "M9 9h10.500v10.500H9z M6 15H4.500V4.500H15V6",
  edit: "M5 19l1-4L16.500 4.500l3 3L9 18z M14 7l3 3",
  regenerate: "M19.500 11.500a7.500 7.500 0 1 0-2 5.600 M19.500 5.500v6h-6",
  continue: "M5 6l7 6l-7 6z M16 6v12",
  good: "M7.500 11v8.500H4V11z M7.500 11l3.800-6.800c1.500.1 2.300 1.100 2 2.600L12.600 10.200h5.900c1.100 0 1.800.9 1.500 2l-1.600 5.800c-.3.900-1 1.500-2 1.500H7.500",
  bad: "M7.500 13V4.500H4V13z M7.500 13l3.800 6.800c1.500-.1 2.300-1.100 2-2.600l-.7-3.400h5.900c1.100 0 1.800-.9 1.500-2L18.400 6c-.3-.9-1-1.500-2-1.500H7.500",
  web_search: "M12 4a8 8 0 1 0 0 16a8 8 0 0 0 0-16z M4.300 12h15.400 M12 4c-5 5-5 11 0 16c5-5 5-11 0-16",
  calculator: "M6 3.500h12v17H6z M9 7.500h6 M9 12h.01 M12 12h.01 M15 12h.01 M9 16h.01 M12 16h.01 M15 16h.01",
  equation_solver: "M4 8.500l4.500 7 M8.500 8.500l-4.500 7 M13 10h7 M13 14.500h7",
  text_to_image: "M4 5.500h16v13H4z M4 16l4.500-4.500l3.500 3.500l3-2.500l5 4.500 M15.500 9.200h.01",
  thoughts: "M9 18.500h6 M10 21h4 M12 3.500a6 6 0 0 0-3.500 10.900c.6.500.9 1.100.9 1.900h5.200c0-.8.3-1.400.9-1.900A6 6 0 0 0 12 3.500z",
  link: "M9.500 14.500l5-5 M11 7l1.800-1.800a4 4 0 0 1 5.700 5.700L16.700 12.700 M13 17l-1.800 1.800a4 4 0 0 1-5.700-5.700L7.300 11.300",
  lock: "M6 11h12v9H6z M8.500 11V8a3.500 3.500 0 0 1 7 0v3",
  unlock: "M6 11h12v9H6z M8.500 11V7a3.500 3.500 0 0 1 6.800-1.200",
  upload: "M12 15V5 M7.500 9L12 4.500L16.500 9 M5 15v4h14v-4",
  download: "M12 4.500v10 M7.500 10.500L12 15l4.500-4.500 M5 15v4h14v-4",
  warning: "M12 4.500L21 19.500H3z M12 10v4.500 M12 17h.01",
} as const;

export type IconName = keyof typeof SHAPES;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={SHAPES[name]} />
    </svg>
  );
}

const TOOL_OF_API: Record<string, IconName> = {
  Search: "web_search", Calculate: "calculator", Solve: "equation_solver", Text2Image: "text_to_image",
};

export const iconOfApi = (api: string): IconName => TOOL_OF_API[api] ?? "settings";
