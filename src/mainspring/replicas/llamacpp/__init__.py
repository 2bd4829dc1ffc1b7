"""The language-model replica: llama.cpp behind its own HTTP server, in OpenAI's API."""
