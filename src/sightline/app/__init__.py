"""``sightline app``: chat, data, labels, runs and results in a browser, on this machine.

What each tab does is plain functions without a browser (``chat``, ``rows``, ``labels``, ``runs``, ``results``); files
named ``tab_*`` put them on a page. The only place that imports gradio.
"""
