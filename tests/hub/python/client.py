"""One call of huggingface_hub in a process of its own: its settings are read from the environment on import.

python client.py snapshot|file JSON-ARGUMENTS prints {"path": …} or {"error": class, "kinds": [classes], "causes":
[classes], "message": …}.
"""

import json
import sys

import huggingface_hub


def causes(error):
    """The client often hides what the hub said behind an error about its cache."""
    names = []
    while error := error.__cause__ or error.__context__:
        names.append(type(error).__name__)
    return names


def main():
    call = {"snapshot": huggingface_hub.snapshot_download, "file": huggingface_hub.hf_hub_download}[sys.argv[1]]
    try:
        answer = {"path": call(**json.loads(sys.argv[2]))}
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        answer = {"error": type(error).__name__, "kinds": kinds, "causes": causes(error), "message": str(error)}
    print(json.dumps(answer))


main()
