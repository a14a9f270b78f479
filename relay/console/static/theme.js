// Run before the first paint, so that a page never flashes in the other colours.
const root = document.documentElement;
root.classList.add("js");
for (const name of ["theme", "density"]) {
  const kept = localStorage.getItem(`relay-${name}`);
  if (kept) root.dataset[name] = kept;
}
