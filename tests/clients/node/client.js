// One official OpenAI client for Node, told line by line what to do: node client.js PACKAGE.
//
// Goal: say what the client made of an answer. Method: a JSON line in (`scenario`, `base_url`,
// `api_key`, `options`), a JSON line out (`value` or `failure`); nothing but URL and key is ever
// set. It knows nothing of the relay and judges nothing; python_client.py has the same scenarios.
"use strict";

const { createHash } = require("node:crypto");
const readline = require("node:readline");
const { z } = require("zod");

const OpenAI = require(process.argv[2]);
const { zodResponseFormat } = require(`${process.argv[2]}/helpers/zod`);
const { VERSION } = require(`${process.argv[2]}/version`);

const MODEL = "gpt-test";
const SAID = "Tell me.";
const ASKED = [{ role: "user", content: SAID }];
const TOOL = {
  type: "function",
  function: {
    name: "look_up",
    strict: true,
    parameters: {
      type: "object",
      properties: { query: { type: "string" }, note: { type: "string" } },
      required: ["query", "note"],
      additionalProperties: false,
    },
  },
};
const FORCED = { model: MODEL, messages: ASKED, tools: [TOOL], tool_choice: "required" };
const FILE = Buffer.from(Array.from({ length: 256 * 40 }, (_, index) => index % 256));
const PATIENCE_MS = 500; // of a client with a timeout, for an answer that does not come

const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const scenarios = {
  async version() {
    return { version: VERSION };
  },

  // --- text -----------------------------------------------------------------------------------

  async chat(client, { model = MODEL, padding_bytes = 0, max_retries }) {
    const wish = max_retries === undefined ? {} : { maxRetries: max_retries };
    const messages = [{ role: "system", content: "x".repeat(padding_bytes) }, ...ASKED];
    const answer = await client.chat.completions.create({ model, messages }, wish);
    return { ...completion(answer), request_id: answer._request_id };
  },

  async chat_stream(client, { include_usage }) {
    const wish = include_usage ? { stream_options: { include_usage: true } } : {};
    const body = { model: MODEL, messages: ASKED, stream: true, ...wish };
    const chunks = await collect(await client.chat.completions.create(body));
    const choices = chunks.flatMap((chunk) => chunk.choices);
    return {
      text: choices.map((choice) => choice.delta.content ?? "").join(""),
      finish_reasons: choices.map((choice) => choice.finish_reason).filter(Boolean),
      usages: chunks.filter((chunk) => chunk.usage).map(usage),
      empty_chunks: chunks.filter((chunk) => chunk.choices.length === 0).length,
    };
  },

  async chat_stream_assembled(client) {
    const stream = client.chat.completions.stream({ model: MODEL, messages: ASKED });
    return completion(await stream.finalChatCompletion());
  },

  async tools(client) {
    return toolCall(await client.chat.completions.create(FORCED));
  },

  async tools_stream(client) {
    return toolCall(await client.chat.completions.stream(FORCED).finalChatCompletion());
  },

  async json_mode(client) {
    const response_format = { type: "json_object" };
    const body = { model: MODEL, messages: ASKED, response_format };
    return completion(await client.chat.completions.create(body));
  },

  async parse(client) {
    const response_format = zodResponseFormat(z.object({ answer: z.string() }), "reply");
    const body = { model: MODEL, messages: ASKED, response_format };
    const answer = await client.chat.completions.parse(body);
    return { answer: answer.choices[0].message.parsed.answer };
  },

  async completions(client) {
    const body = { model: MODEL, prompt: SAID };
    const whole = await client.completions.create(body);
    const chunks = await collect(await client.completions.create({ ...body, stream: true }));
    const choices = chunks.flatMap((chunk) => chunk.choices);
    return {
      whole: whole.choices[0].text,
      streamed: choices.map((choice) => choice.text).join(""),
    };
  },

  async responses(client) {
    const answer = await client.responses.create({ model: MODEL, input: SAID });
    const { input_tokens, output_tokens } = answer.usage;
    return {
      text: answer.output_text,
      status: answer.status,
      usage: [input_tokens, output_tokens],
    };
  },

  async responses_stream(client) {
    const stream = client.responses.stream({ model: MODEL, input: SAID });
    const events = await collect(stream);
    const final = await stream.finalResponse();
    return { text: final.output_text, status: final.status, last: events.at(-1).type };
  },

  // --- beside text ----------------------------------------------------------------------------

  async embeddings(client) {
    const body = { model: MODEL, input: ["one", "two"] };
    const plain = await client.embeddings.create({ ...body, encoding_format: "float" });
    const packed = await client.embeddings.create(body);
    return {
      plain: plain.data.map((row) => row.embedding),
      packed: packed.data.map((row) => row.embedding),
    };
  },

  async batch(client) {
    const lines = [0, 1, 2].map((number) => ({
      custom_id: `r${number}`,
      method: "POST",
      url: "/v1/chat/completions",
      body: { model: MODEL, messages: ASKED, max_tokens: 50 },
    }));
    const held = Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
    const file = await OpenAI.toFile(held, "batch.jsonl");
    const sent = await client.files.create({ file, purpose: "batch" });
    const body = {
      input_file_id: sent.id,
      endpoint: "/v1/chat/completions",
      completion_window: "24h",
    };
    const made = await client.batches.create(body);
    const listed = (await collect(client.batches.list())).map((one) => one.id);
    const cancelled = await client.batches.create(body);
    await client.batches.cancel(cancelled.id);
    let done = made;
    for (let look = 0; look < 100 && !done.output_file_id; look += 1) {
      done = await client.batches.retrieve(made.id);
      await new Promise((resolve) => setTimeout(resolve, PATIENCE_MS / 10));
    }
    const told = await (await client.files.content(done.output_file_id)).text();
    return {
      listed: listed.length === 1 && listed[0] === made.id,
      status: done.status,
      served: told.trim().split("\n").map((line) => JSON.parse(line).custom_id),
    };
  },

  async models(client) {
    const listed = await collect(client.models.list());
    const found = await client.models.retrieve(MODEL);
    return { listed: listed.map((model) => model.id), found: found.id };
  },

  async moderations(client) {
    const verdict = await client.moderations.create({ model: MODEL, input: ["a", "b"] });
    return { flagged: verdict.results.map((result) => result.flagged) };
  },

  async images(client) {
    const image = await OpenAI.toFile(FILE, "a.png", { type: "image/png" });
    const made = await client.images.generate({ model: MODEL, prompt: SAID, n: 2 });
    const edited = await client.images.edit({ model: MODEL, prompt: SAID, image });
    const unpack = ({ b64_json }) => digest(Buffer.from(b64_json, "base64"));
    return { made: made.data.map(unpack), edited: edited.data.map(unpack) };
  },

  async speech(client) {
    const audio = await client.audio.speech.create({ model: MODEL, input: SAID, voice: "alloy" });
    return { audio: digest(Buffer.from(await audio.arrayBuffer())) };
  },

  async transcriptions(client) {
    const send = async (wish) => {
      const file = await OpenAI.toFile(FILE, "a.wav");
      return client.audio.transcriptions.create({ model: MODEL, file, ...wish });
    };
    const whole = await send({});
    const events = await collect(await send({ stream: true }));
    const deltas = events.filter((event) => event.type === "transcript.text.delta");
    return { whole: whole.text, streamed: deltas.map((event) => event.delta).join("") };
  },

  // --- what goes wrong ------------------------------------------------------------------------

  async broken_stream(client) {
    const body = { model: MODEL, messages: ASKED, stream: true };
    const stream = await client.chat.completions.create(body);
    let text = "";
    try {
      for await (const chunk of stream) {
        text += chunk.choices[0].delta.content ?? "";
      }
    } catch (error) {
      return { text, failure: failure(error) };
    }
    return { text, failure: null };
  },

  async broken_responses_stream(client) {
    const body = { model: MODEL, input: SAID, stream: true };
    return { last: (await collect(await client.responses.create(body))).at(-1).type };
  },

  async broken_responses_assembled(client) {
    const stream = client.responses.stream({ model: MODEL, input: SAID });
    return { status: (await stream.finalResponse()).status };
  },

  async leave_stream(client) {
    const body = { model: MODEL, messages: ASKED, stream: true };
    let seen = 0;
    for await (const _ of await client.chat.completions.create(body)) {
      seen += 1;
      if (seen === 2) break;
    }
    return { seen };
  },

  async leave_before_answer(client, { stream }) {
    const abort = new AbortController();
    const body = { model: MODEL, messages: ASKED, stream };
    const call = client.chat.completions.create(body, { signal: abort.signal });
    const outcome = call.then(
      () => false,
      (error) => error instanceof OpenAI.APIUserAbortError,
    );
    await lines.next();
    abort.abort();
    return { cancelled: await outcome };
  },

  async time_out(client) {
    const body = { model: MODEL, messages: ASKED };
    const patience = { timeout: PATIENCE_MS, maxRetries: 0 };
    return completion(await client.chat.completions.create(body, patience));
  },
};

// --- facts --------------------------------------------------------------------------------------

async function collect(items) {
  const found = [];
  for await (const item of items) found.push(item);
  return found;
}

function completion(answer) {
  const { message, finish_reason } = answer.choices[0];
  return { text: message.content, finish_reason, usage: answer.usage ? usage(answer) : null };
}

function toolCall(answer) {
  const { message, finish_reason } = answer.choices[0];
  const [call] = message.tool_calls;
  return { name: call.function.name, arguments: call.function.arguments, finish_reason };
}

function usage(answer) {
  return [answer.usage.prompt_tokens, answer.usage.completion_tokens];
}

function digest(content) {
  return [content.length, createHash("sha256").update(content).digest("hex")];
}

function failure(error) {
  return {
    kind: error.constructor.name,
    status: error.status ?? null,
    request_id: error.requestID ?? null,
    message: error.message,
  };
}

// --- one line at a time -------------------------------------------------------------------------

async function play({ scenario, base_url, api_key, options }) {
  const client = new OpenAI({ baseURL: base_url, apiKey: api_key });
  try {
    return { value: await scenarios[scenario](client, options) };
  } catch (error) {
    if (!(error instanceof OpenAI.OpenAIError)) throw error;
    return { failure: failure(error) };
  }
}

async function main() {
  for await (const line of lines) {
    process.stdout.write(`${JSON.stringify(await play(JSON.parse(line)))}\n`);
  }
}

main();
