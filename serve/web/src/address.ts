// The open conversation in the page's address, so that a reload, a bookmark and the browser's buttons
// lead back to it. It stands behind the #, which browsers send to no server.

const FORM = /^#\/c\/(.+)$/;

/** Id of the conversation that the address names; null for the welcome. */
export function addressed(): string | null {
  return FORM.exec(window.location.hash)?.[1] ?? null;
}

/** Name a conversation in the address: as a step that the back button undoes, or in place of the last one. */
export function address(id: string | null, step: "push" | "replace" = "push"): void {
  if (id === addressed()) return;
  const url = id ? `#/c/${id}` : window.location.pathname;
  if (step === "push") window.history.pushState(null, "", url);
  else window.history.replaceState(null, "", url);
}
