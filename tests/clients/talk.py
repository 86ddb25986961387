"""Run by the Python of `make test-clients`: other people's clients against the server at the address given."""

import json
import sys

import ollama
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

URL, PICTURE = sys.argv[1], sys.argv[2]
QUESTION = "Which imaging modality is this?"

client = ollama.Client(URL)
said = {"models": [model.model for model in client.list().models]}
messages = [{"role": "user", "content": QUESTION, "images": [PICTURE]}]
said["ollama"] = client.chat("nano", messages).message.content
said["ollama streamed"] = "".join(piece.message.content for piece in client.chat("nano", messages, stream=True))
said["ollama generate"] = client.generate("nano", QUESTION, images=[PICTURE]).response
model = ChatOpenAI(
    base_url=f"{URL}/v1",
    api_key="not-needed",
    model="nano",
    temperature=0,
    max_tokens=16,
    timeout=60,
    streaming=True,
    frequency_penalty=0.4,
    presence_penalty=0,
)
picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
asked = [SystemMessage(""), HumanMessage([picture, {"type": "text", "text": QUESTION}])]
said["langchain"] = model.invoke(asked).content
said["langchain streamed"] = "".join(chunk.content for chunk in model.stream(asked))
sys.stdout.write(json.dumps(said))
