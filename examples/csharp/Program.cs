// Chat in a terminal with Microsoft's .NET client, by the recipe of docs/hub.md ("With a stock client"):
//   dotnet run -- http://localhost:5000 TOKEN CONVERSATION_ID
// It is written to show each message once and in order, whatever dies meanwhile, and to send each line that is typed
// once. NOT RUN BY OUR TESTS: there is no .NET where they run. The Java example, of the same shape, is.
using System.Collections.Concurrent;
using System.Text.RegularExpressions;
using Microsoft.AspNetCore.SignalR;
using Microsoft.AspNetCore.SignalR.Client;

var (url, token, conversationId) = (args[0], args[1], args[2]);
// The last change of each conversation, and its message: keep it with what is shown.
var seen = new ConcurrentDictionary<string, Cursor>();
await using var hub = new HubConnectionBuilder()
    .WithUrl($"{url}/hubs/chat?sync=manual", options => options.AccessTokenProvider = () => Task.FromResult<string?>(token))
    .WithAutomaticReconnect(new ForEver())
    .Build();

// Only events move the cursor: the answer to a send may be ahead of what others wrote before it.
void Show(Message message)
{
    if (seen.TryGetValue(message.ConversationId, out var last) && message.ChangedSeq <= last.Seq) return;
    seen[message.ConversationId] = new Cursor(message.ChangedSeq, message.Id);
    Console.WriteLine($"{message.Seq} {message.Content}");
}
hub.On<Message>("ReceiveMessage", Show);
hub.On<Message>("MessageChanged", Show);
hub.On<Resync>("Resync", notice => // too far behind: show that conversation from REST
{
    seen[notice.ConversationId] = new Cursor(notice.LastSeq, notice.MessageId);
    Console.WriteLine($"read GET /api/messages?conversationId={notice.ConversationId}");
});

// Until it is answered, on this connection or a later one. An answer that is an error begins with its code.
async Task Call(string method, object argument)
{
    string[] again = ["unavailable", "overloaded", "rate_limited"];
    for (;;)
    {
        try
        {
            await hub.InvokeAsync<object>(method, argument);
            return;
        }
        catch (Exception error)
        {
            var code = Regex.Match(error.Message, "^([a-z_]+): ").Groups[1].Value;
            if (error is HubException && code != "" && !again.Contains(code)) throw;
            await Task.Delay(500); // it may have been done: the same again, with the same clientMessageId
        }
    }
}

// What was missed comes as events, then what happens: of 400 conversations, docs/hub.md has the rest.
Task Sync() => Call("Sync", seen);
hub.Reconnected += _ =>
{
    _ = Sync(); // not awaited here: the client waits for its handlers
    return Task.CompletedTask;
};
hub.Closed += error => // only when the server does not want this client back
{
    if (error is not null) Console.Error.WriteLine(error.Message);
    Environment.Exit(error is null ? 0 : 1);
    return Task.CompletedTask;
};
while (hub.State == HubConnectionState.Disconnected) // the first connection is not made again by itself
{
    try { await hub.StartAsync(); }
    catch (HttpRequestException error) when (error.StatusCode is null || (int)error.StatusCode >= 500) { await Task.Delay(1000); }
}
await Sync();
while (Console.ReadLine() is { } content)
{
    var message = new { conversationId, content, clientMessageId = Guid.NewGuid() }; // one id is one message
    try { await Call("SendMessage", message); }
    catch (HubException refused) { Console.Error.WriteLine(refused.Message.Split('\n')[0]); }
}

record Cursor(long Seq, string? MessageId);
record Message(string Id, string ConversationId, long Seq, long ChangedSeq, string Content);
record Resync(string ConversationId, long LastSeq, string? MessageId);

class ForEver : IRetryPolicy
{
    public TimeSpan? NextRetryDelay(RetryContext context) => TimeSpan.FromMilliseconds(Random.Shared.Next(2000));
}
