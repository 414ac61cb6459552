"""The environment: workspace, actions, coder, isolated execution, feedback, and the step that joins them.

Where what is: `runner` runs a script isolated (`machines`: on several machines), `isolation` is how; `step`
joins all from a reply to its outcome (`env`: with Gymnasium's conventions); `actions` are the paper's seven
and undo, read by `reader`; `coder` makes edits, found in replies by `coder_reply`; `workspace` holds states,
`cache` results by content; `outcome` names what a step came to; `luck` runs a gain again with other seeds.
"""
