"""Look at the trajectories of a run: as a page (``write_page``) or in a notebook (``widget``)."""

from mlagent_lib.results.browser import Written, page_html, widget, write_page

__all__ = ["Written", "page_html", "widget", "write_page"]
