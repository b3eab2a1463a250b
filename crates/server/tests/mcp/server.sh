#!/bin/sh
# An MCP server on standard input and output, as small as one can be. Its tools do what the tests need.
while IFS= read -r line; do
  id=${line#*\"id\":}
  id=${id%%[,\}]*}
  result() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
  text() { result "{\"content\":[{\"type\":\"text\",\"text\":\"$1\"}],\"isError\":$2}"; }
  case "$line" in
    *'"method":"initialize"'*)
      result '{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"tiny","version":"1"}}' ;;
    *'"method":"tools/list"'*)
      result '{"tools":[{"name":"greet","description":"Greets","inputSchema":{"type":"object","properties":{"who":{"type":"string"}},"required":["who"]},"annotations":{"readOnlyHint":true}},{"name":"fail","inputSchema":{"type":"object"}},{"name":"sleep","inputSchema":{"type":"object"}},{"name":"die","inputSchema":{"type":"object"}},{"name":"long","inputSchema":{"type":"object"}}]}' ;;
    *'"name":"greet"'*)
      who=${line#*\"who\":\"}
      text "hello, ${who%%\"*} ($GREETING)" false ;;
    *'"name":"fail"'*) text 'no luck' true ;;
    *'"name":"sleep"'*) sleep 5 ;;
    *'"name":"die"'*) exit 1 ;;
    *'"name":"long"'*) text "$(printf 'x%.0s' $(seq 1 500))" false ;;
  esac
done
