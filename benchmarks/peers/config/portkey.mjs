// Loaded before Portkey. The Hono server that it is installed with today keeps the headers of a
// fetched answer for those of its own, and a fetched answer's are immutable: Portkey, which adds some,
// ended every stream with 500 (TypeError: immutable). So each answer gets headers that can be added
// to, once; nothing else of Portkey's way is touched, and no event passes here.
const fetched = globalThis.fetch;
const Answer = globalThis.Response;

globalThis.fetch = async (...asked) => {
  const { body, status, statusText, headers } = await fetched(...asked);
  return new Answer(body, { status, statusText, headers: new Headers([...headers]) });
};
