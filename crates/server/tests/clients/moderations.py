"""/v1/moderations with the official client, on a server without a classifier."""

import openai
from common import check, client

try:
    client.moderations.create(input="hello")
    check("without a classifier there is none", False)
except openai.NotFoundError as error:
    check("without a classifier there is none", error.code == "model_not_found", error)
    check("and the reason is told", "no classifier" in error.message, error.message)
