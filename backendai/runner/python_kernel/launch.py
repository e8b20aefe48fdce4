"""Start ipykernel without what a session has no use for. Runs inside the sandbox and imports nothing of ours.

Against the plain launcher: no debugger, which nobody can reach and which takes a fifth of the start; no
history database; completion without jedi, whose first answer takes seconds; no words about itself in the
session's log.
"""

import sys
import warnings

sys.modules["debugpy"] = None  # type: ignore[assignment]

from ipykernel.kernelapp import IPKernelApp  # noqa: E402

app = IPKernelApp.instance()
app.initialize(  # type: ignore[no-untyped-call]
    [
        *sys.argv[1:],
        "--log-level=50",
        "--HistoryManager.enabled=False",
        "--Completer.use_jedi=False",
    ]
)
# Programs may import it all the same.
del sys.modules["debugpy"]
# Advice about leaving an interactive terminal, given to whoever calls sys.exit().
warnings.filterwarnings("ignore", message="To exit: use", category=UserWarning)
app.start()  # type: ignore[no-untyped-call]
