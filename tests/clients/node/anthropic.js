// The official Anthropic client for Node, told line by line what to do; see client.js.
"use strict";

const readline = require("node:readline");

const Anthropic = require("@anthropic-ai/sdk");

const MODEL = "gpt-test";
const ASKED = [{ role: "user", content: "Tell me." }];
const BODY = { model: MODEL, max_tokens: 1000, messages: ASKED };
const TOOL = { name: "look_up", input_schema: { type: "object", properties: {} } };
const FORCED = { ...BODY, tools: [TOOL], tool_choice: { type: "any" } };

const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const scenarios = {
  async create(client, { model = MODEL }) {
    const message = await client.messages.create({ ...BODY, model });
    return { ...facts(message), request_id: message._request_id };
  },

  async stream(client) {
    const stream = client.messages.stream(BODY);
    let text = "";
    stream.on("text", (piece) => (text += piece));
    const message = await stream.finalMessage();
    return { ...facts(message), heard: text };
  },

  async tools(client) {
    const message = await client.messages.stream(FORCED).finalMessage();
    const [block] = message.content;
    return { name: block.name, input: block.input, stop_reason: message.stop_reason };
  },

  async count_tokens(client) {
    const { input_tokens } = await client.messages.countTokens({ model: MODEL, messages: ASKED });
    return { input_tokens };
  },

  async models(client) {
    const listed = [];
    for await (const model of client.models.list()) listed.push(model.id);
    return { listed, found: (await client.models.retrieve(MODEL)).id };
  },

  async broken_stream(client) {
    let text = "";
    const stream = await client.messages.create({ ...BODY, stream: true });
    try {
      for await (const event of stream) text += event.delta?.text ?? "";
    } catch (error) {
      if (!(error instanceof Anthropic.AnthropicError)) throw error;
      return { text, failure: failure(error) };
    }
    return { text, failure: null };
  },

  async leave_stream(client) {
    let seen = 0;
    for await (const _ of await client.messages.create({ ...BODY, stream: true })) {
      seen += 1;
      if (seen === 4) break;
    }
    return { seen };
  },
};

function facts(message) {
  const [block] = message.content;
  const { input_tokens, output_tokens } = message.usage;
  return { text: block.text, stop_reason: message.stop_reason, usage: [input_tokens, output_tokens] };
}

function failure(error) {
  return {
    kind: error.constructor.name,
    status: error.status ?? null,
    request_id: error.requestID ?? null,
    message: error.message,
  };
}

async function play({ scenario, base_url, api_key, options }) {
  const client = new Anthropic({ baseURL: base_url, apiKey: api_key });
  try {
    return { value: await scenarios[scenario](client, options) };
  } catch (error) {
    if (!(error instanceof Anthropic.AnthropicError)) throw error;
    return { failure: failure(error) };
  }
}

async function main() {
  for await (const line of lines) {
    process.stdout.write(`${JSON.stringify(await play(JSON.parse(line)))}\n`);
  }
}

main();
