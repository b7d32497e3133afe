"""The documentation site: how it is built, and the pages and tables that are made from code and figures."""
