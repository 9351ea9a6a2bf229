"""Mail as it is: a reader of RFC 5322 and MIME that takes any bytes, in linear time, and never raises."""
