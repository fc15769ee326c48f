// What the browser remembers. Never conversations, never keys beyond the session.

export function load<T extends object>(name: string, otherwise: T): T {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(`moss.${name}`) ?? "null");
    return found && typeof found === "object" ? { ...otherwise, ...found } : otherwise;
  } catch {
    return otherwise;
  }
}

export function save(name: string, value: object): void {
  try {
    localStorage.setItem(`moss.${name}`, JSON.stringify(value));
  } catch {
    // Storage is full or forbidden: the page works on, and forgets.
  }
}

const KEY = "moss.key";

/** The API key stays in this tab; it is sent in a header and never in an address. */
export const apiKey = {
  get: (): string => {
    try {
      return sessionStorage.getItem(KEY) ?? "";
    } catch {
      return "";
    }
  },
  set: (key: string): void => {
    try {
      if (key) sessionStorage.setItem(KEY, key);
      else sessionStorage.removeItem(KEY);
    } catch {
      // Without storage every load asks for the key again.
    }
  },
};
