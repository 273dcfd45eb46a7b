// ASP.NET SignalR + Npgsql: direct messages, each committed before it is answered and delivered.
// Arguments: port, directory of PostgreSQL's socket, database, directory of the SQL.
using Microsoft.AspNetCore.SignalR;
using Npgsql;

var (port, host, database, sql) = (args[0], args[1], args[2], args[3]);
var builder = WebApplication.CreateBuilder();
builder.Logging.SetMinimumLevel(LogLevel.Error);
builder.WebHost.UseUrls($"http://127.0.0.1:{port}");
builder.Services.AddSingleton(NpgsqlDataSource.Create(
    $"Host={host};Port=5432;Username=postgres;Database={database};Maximum Pool Size=10;Max Auto Prepare=10"));
builder.Services.AddSingleton(new Sql(
    File.ReadAllText(Path.Combine(sql, "send.sql")), File.ReadAllText(Path.Combine(sql, "again.sql"))));
builder.Services.AddSignalR(options =>
{
    // Pings are put off: they would be counted as work. Nor does a client that is silent for so long end.
    options.KeepAliveInterval = TimeSpan.FromHours(1);
    options.ClientTimeoutInterval = TimeSpan.FromHours(2);
});
var app = builder.Build();
app.MapHub<Chat>("/chat");
app.Run();

public record Sql(string Send, string Again);

public record Message(string ConversationId, string Content, Guid ClientMessageId);

public record Stored(
    Guid Id, string ConversationId, long Seq, long SenderId, string Content, Guid ClientMessageId, DateTime CreatedAt);

public class Chat(NpgsqlDataSource database, Sql sql) : Hub
{
    long Me => (long)Context.Items["user"]!;

    public override async Task OnConnectedAsync()
    {
        Context.Items["user"] = long.Parse(Context.GetHttpContext()!.Request.Query["user"].ToString());
        await using var command = database.CreateCommand("select conversation_id from members where user_id = $1");
        command.Parameters.AddWithValue(Me);
        await using (var reader = await command.ExecuteReaderAsync())
        {
            while (await reader.ReadAsync())
                await Groups.AddToGroupAsync(Context.ConnectionId, reader.GetInt64(0).ToString());
        }
        await Clients.Caller.SendAsync("Ready");
    }

    public async Task<Stored> SendMessage(Message message)
    {
        var conversation = long.Parse(message.ConversationId);
        Stored? whole;
        try
        {
            whole = await Read(
                message, sql.Send, conversation, Me, Guid.NewGuid(), message.ClientMessageId, message.Content);
        }
        catch (PostgresException error) when (error.SqlState == PostgresErrorCodes.UniqueViolation)
        {
            whole = await Read(message, sql.Again, Me, message.ClientMessageId);
        }
        if (whole is null)
            throw new HubException("forbidden");
        await Clients.Group(message.ConversationId).SendAsync("ReceiveMessage", whole);
        return whole;
    }

    async Task<Stored?> Read(Message message, string statement, params object[] values)
    {
        await using var command = database.CreateCommand(statement);
        foreach (var value in values)
            command.Parameters.AddWithValue(value);
        await using var reader = await command.ExecuteReaderAsync();
        if (!await reader.ReadAsync())
            return null;
        return new Stored(
            reader.GetGuid(0), message.ConversationId, reader.GetInt64(1), Me, message.Content,
            message.ClientMessageId, reader.GetDateTime(2));
    }
}
