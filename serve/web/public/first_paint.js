// Runs before the first paint, so that a chosen theme never flashes in the other one.
(function () {
  try {
    const saved = JSON.parse(localStorage.getItem("moss.preferences") || "{}");
    if (saved.theme === "dark" || saved.theme === "light") document.documentElement.dataset.theme = saved.theme;
    if (saved.language === "zh") document.documentElement.lang = "zh-Hans";
  } catch {
    // A full or forbidden storage leaves the system's theme.
  }
})();
