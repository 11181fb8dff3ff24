// The words of status lines (RFC 9110 15), for the servers of proxy and controller. Those of the proxy's answers to its
// own clients are beside them in Http/LocalReply: that room knows no other.

package func reasonPhrase(_ status: Int) -> StaticString {
  switch status {
  case 200: "OK"
  case 201: "Created"
  case 202: "Accepted"
  case 400: "Bad Request"
  case 403: "Forbidden"
  case 404: "Not Found"
  case 405: "Method Not Allowed"
  case 408: "Request Timeout"
  case 409: "Conflict"
  case 413: "Content Too Large"
  case 414: "URI Too Long"
  case 421: "Misdirected Request"
  case 431: "Request Header Fields Too Large"
  case 500: "Internal Server Error"
  case 501: "Not Implemented"
  case 503: "Service Unavailable"
  case 505: "HTTP Version Not Supported"
  case 507: "Insufficient Storage"
  default: "Unknown"
  }
}
