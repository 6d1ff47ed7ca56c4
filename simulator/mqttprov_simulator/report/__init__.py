"""What is made of a run when it is over: result file, verdict, page, comparison. No sockets, no clock."""
