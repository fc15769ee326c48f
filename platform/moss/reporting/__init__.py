"""What a run says about its data: blocks of a report, their page, and the viewer of rows."""
