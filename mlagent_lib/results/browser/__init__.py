"""The trajectories of a run as one page to browse: offline, self-contained, nothing of a reply is markup.

``rows`` reads files and names what is damaged, ``data`` shares strings between steps and makes what the page
needs, ``page`` puts it together with ``view.html``, ``view.css`` and the scripts. Scores are those on the
feedback labels, as the steps record them. Nothing is evaluated here: tables of results are in the report.
"""

from mlagent_lib.results.browser.page import Written, page_html, widget, write_page

__all__ = ["Written", "page_html", "widget", "write_page"]
