// The official Gemini client for Node, told line by line what to do; see client.js.
"use strict";

const readline = require("node:readline");

const { GoogleGenAI, ApiError } = require("@google/genai");

const MODEL = "gpt-test";
const ASKED = "Tell me.";
const TOOL = { name: "weather", parametersJsonSchema: { type: "object", properties: {} } };

const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const scenarios = {
  async create(ai, { model = MODEL }) {
    return facts(await ai.models.generateContent({ model, contents: ASKED }));
  },

  async stream(ai) {
    let text = "";
    let last;
    for await (last of await ai.models.generateContentStream({ model: MODEL, contents: ASKED })) {
      text += last.text ?? "";
    }
    return { ...facts(last), text };
  },

  async tools(ai) {
    const config = { tools: [{ functionDeclarations: [TOOL] }] };
    const asked = await ai.models.generateContent({ model: MODEL, contents: ASKED, config });
    const calls = asked.functionCalls.map(({ name, args }) => ({ name, args }));
    const results = asked.functionCalls.map(({ id, name }) => ({
      functionResponse: { id, name, response: { output: "sunny" } },
    }));
    const contents = [
      { role: "user", parts: [{ text: ASKED }] },
      asked.candidates[0].content,
      { role: "user", parts: results },
    ];
    const told = await ai.models.generateContent({ model: MODEL, contents, config });
    return { calls, text: told.text };
  },

  async count(ai) {
    const { totalTokens } = await ai.models.countTokens({ model: MODEL, contents: ASKED });
    return { totalTokens };
  },

  async embed(ai) {
    const { embeddings } = await ai.models.embedContent({ model: MODEL, contents: ["one", "two"] });
    return { vectors: embeddings.map(({ values }) => values) };
  },

  async models(ai) {
    const listed = [];
    for await (const model of await ai.models.list()) listed.push(model.name);
    return { listed };
  },
};

function facts(answer) {
  const { promptTokenCount, candidatesTokenCount } = answer.usageMetadata ?? {};
  return {
    text: answer.text,
    finish: answer.candidates[0].finishReason,
    usage: [promptTokenCount, candidatesTokenCount],
  };
}

async function play({ scenario, base_url, api_key, options }) {
  const ai = new GoogleGenAI({ apiKey: api_key, httpOptions: { baseUrl: base_url } });
  try {
    return { value: await scenarios[scenario](ai, options) };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    const found = { kind: "ApiError", status: error.status ?? null, request_id: null };
    return { failure: { ...found, message: error.message } };
  }
}

async function main() {
  for await (const line of lines) {
    process.stdout.write(`${JSON.stringify(await play(JSON.parse(line)))}\n`);
  }
}

main();
